//! Addresses as people write them: numbers, symbols and registers, added and subtracted.
//!
//! `0x1000`, `4096`, `main`, `'<T as Trait>::f'+8`, `$rsp - 0x10`. Arithmetic wraps at 2⁶⁴. A name that holds other
//! characters than letters, digits, `_`, `.`, `$`, `@` and `::` is put in single quotes.
use super::symbols::SymbolError;
use std::fmt;

/// A sum of terms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expression(Vec<(Sign, Term)>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sign {
    Plus,
    Minus,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Term {
    Number(u64),
    Register(String),
    Symbol(String),
}

/// Why text is no expression.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExpressionError {
    /// Nothing where a term must be.
    #[error("an address is missing: write a number, a symbol or a register such as $rip")]
    Missing,
    /// Digits that are no number of 64 bits.
    #[error("'{0}' is not a number of at most 64 bits; hexadecimal ones begin with 0x")]
    Number(String),
    /// A quote that is not closed.
    #[error("the quote before {0} is not closed")]
    Quote(String),
    /// A `$` without a name.
    #[error("a register's name is missing after '$'")]
    Register,
    /// A character that begins no term.
    #[error("'{0}' cannot begin an address")]
    Unexpected(char),
}

/// Why an expression has no value.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EvaluateError {
    /// No such register.
    #[error("there is no register named ${0}; 'registers all' shows their names")]
    Register(String),
    /// No such symbol, or several.
    #[error(transparent)]
    Symbol(#[from] SymbolError),
}

/// What names stand for.
pub trait Names {
    /// The value of a register, named without `$`.
    fn register(&self, name: &str) -> Option<u64>;
    /// The address of a symbol.
    ///
    /// # Errors
    /// When no symbol or more than one fits.
    fn symbol(&self, name: &str) -> Result<u64, SymbolError>;
}

impl Expression {
    /// The expression that is this number.
    #[must_use]
    pub fn number(value: u64) -> Self {
        Self(vec![(Sign::Plus, Term::Number(value))])
    }

    /// Parses an expression from the front of `text`; returns what follows it.
    ///
    /// # Errors
    /// [`ExpressionError`].
    pub fn parse_front(text: &str) -> Result<(Self, &str), ExpressionError> {
        let mut terms = Vec::new();
        let mut rest = text.trim_start();
        let mut sign = Sign::Plus;
        if let Some(after) = rest.strip_prefix('-') {
            sign = Sign::Minus;
            rest = after.trim_start();
        }
        loop {
            let (term, after) = parse_term(rest)?;
            terms.push((sign, term));
            let next = after.trim_start();
            sign = match next.chars().next() {
                Some('+') => Sign::Plus,
                Some('-') => Sign::Minus,
                _ => return Ok((Self(terms), next)),
            };
            rest = next[1..].trim_start();
        }
    }

    /// The value.
    ///
    /// # Errors
    /// [`EvaluateError`] for a name that stands for nothing.
    pub fn evaluate(&self, names: &impl Names) -> Result<u64, EvaluateError> {
        self.0.iter().try_fold(0_u64, |sum, (sign, term)| {
            let value = match term {
                Term::Number(value) => *value,
                Term::Register(name) => {
                    names.register(name).ok_or_else(|| EvaluateError::Register(name.clone()))?
                }
                Term::Symbol(name) => names.symbol(name)?,
            };
            Ok(match sign {
                Sign::Plus => sum.wrapping_add(value),
                Sign::Minus => sum.wrapping_sub(value),
            })
        })
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (sign, term)) in self.0.iter().enumerate() {
            match (sign, i) {
                (Sign::Minus, _) => f.write_str("-")?,
                (Sign::Plus, 0) => {}
                (Sign::Plus, _) => f.write_str("+")?,
            }
            match term {
                Term::Number(value) => write!(f, "{value:#x}")?,
                Term::Register(name) => write!(f, "${name}")?,
                Term::Symbol(name) if name.chars().all(is_symbol_part) => f.write_str(name)?,
                Term::Symbol(name) => write!(f, "'{name}'")?,
            }
        }
        Ok(())
    }
}

fn is_symbol_part(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '$' | '@' | ':')
}

fn parse_term(text: &str) -> Result<(Term, &str), ExpressionError> {
    let first = text.chars().next().ok_or(ExpressionError::Missing)?;
    if let Some(after) = text.strip_prefix('$') {
        let (name, rest) = after.split_at(after.find(|c: char| !is_register_part(c)).unwrap_or(after.len()));
        return if name.is_empty() {
            Err(ExpressionError::Register)
        } else {
            Ok((Term::Register(name.to_ascii_lowercase()), rest))
        };
    }
    if let Some(after) = text.strip_prefix('\'') {
        let (name, rest) = after.split_once('\'').ok_or_else(|| ExpressionError::Quote(after.to_owned()))?;
        return if name.is_empty() {
            Err(ExpressionError::Missing)
        } else {
            Ok((Term::Symbol(name.to_owned()), rest))
        };
    }
    if !is_symbol_part(first) {
        return Err(if matches!(first, '+' | '-') {
            ExpressionError::Missing
        } else {
            ExpressionError::Unexpected(first)
        });
    }
    let (word, rest) = text.split_at(text.find(|c| !is_symbol_part(c)).unwrap_or(text.len()));
    let term = if first.is_ascii_digit() {
        Term::Number(parse_number(word)?)
    } else {
        Term::Symbol(word.to_owned())
    };
    Ok((term, rest))
}

fn is_register_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// A number in hexadecimal (`0x`), binary (`0b`) or decimal digits; `_` may separate digits.
///
/// # Errors
/// [`ExpressionError::Number`].
pub fn parse_number(word: &str) -> Result<u64, ExpressionError> {
    let wrong = || ExpressionError::Number(word.to_owned());
    let plain = word.replace('_', "").to_ascii_lowercase();
    let (digits, radix) = match plain.as_bytes() {
        [b'0', b'x', ..] => (&plain[2..], 16),
        [b'0', b'b', ..] => (&plain[2..], 2),
        _ => (plain.as_str(), 10),
    };
    // `from_str_radix` takes a sign, which belongs to the sum and not to the number.
    if digits.starts_with(['+', '-']) {
        return Err(wrong());
    }
    u64::from_str_radix(digits, radix).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Fixed;
    impl Names for Fixed {
        fn register(&self, name: &str) -> Option<u64> {
            (name == "rsp").then_some(0x8000)
        }
        fn symbol(&self, name: &str) -> Result<u64, SymbolError> {
            match name {
                "main" => Ok(0x1000),
                "guest::<T as X>::f" => Ok(0x2000),
                _ => Err(SymbolError::Unknown(name.to_owned())),
            }
        }
    }

    fn value(text: &str) -> Option<u64> {
        let (expression, rest) = Expression::parse_front(text).ok()?;
        if rest.is_empty() { expression.evaluate(&Fixed).ok() } else { None }
    }

    #[test]
    fn sums_of_numbers_symbols_and_registers() {
        assert_eq!(value("0x10"), Some(16));
        assert_eq!(value("10"), Some(10));
        assert_eq!(value("0b101"), Some(5));
        assert_eq!(value("0x20_0000"), Some(0x20_0000));
        assert_eq!(value("main+0x10"), Some(0x1010));
        assert_eq!(value("main + 8 - 4"), Some(0x1004));
        assert_eq!(value("$RSP-8"), Some(0x7ff8));
        assert_eq!(value("'guest::<T as X>::f'+1"), Some(0x2001));
        assert_eq!(value("-1"), Some(u64::MAX));
        assert_eq!(value("0xffffffffffffffff+2"), Some(1));
    }

    #[test]
    fn what_is_no_expression_is_named() {
        let error = |text| Expression::parse_front(text).map(|_| ()).unwrap_err();
        assert_eq!(error(""), ExpressionError::Missing);
        assert_eq!(error("main+"), ExpressionError::Missing);
        assert_eq!(error("$"), ExpressionError::Register);
        assert_eq!(error("'main"), ExpressionError::Quote("main".into()));
        assert_eq!(error("0xfffffffffffffffff"), ExpressionError::Number("0xfffffffffffffffff".into()));
        assert_eq!(error("12ab"), ExpressionError::Number("12ab".into()));
        assert_eq!(error("*4"), ExpressionError::Unexpected('*'));
        assert!(matches!(
            Expression::parse_front("$foo").unwrap().0.evaluate(&Fixed),
            Err(EvaluateError::Register(name)) if name == "foo"
        ));
    }

    #[test]
    fn what_follows_an_expression_is_left() {
        let (_, rest) = Expression::parse_front("main+4 16").unwrap();
        assert_eq!(rest, "16");
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_printed_parses_to_the_same(text in "\\PC{0,40}") {
            if let Ok((expression, _)) = Expression::parse_front(&text) {
                let printed = expression.to_string();
                let (again, rest) = Expression::parse_front(&printed).unwrap();
                prop_assert_eq!((&again, rest), (&expression, ""), "{}", printed);
            }
        }

        #[test]
        fn numbers_survive_both_radixes(n: u64) {
            prop_assert_eq!(value(&n.to_string()), Some(n));
            prop_assert_eq!(value(&format!("{n:#x}")), Some(n));
        }
    }
}
