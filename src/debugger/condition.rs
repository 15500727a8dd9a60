//! Conditions of breakpoints: comparisons of registers, symbols, numbers and memory.
//!
//! `$rdi == 3`, `qword[$rsp + 8] > 0x1000 && $rax != 0`, `byte[message] == 'H'`. Comparisons are of unsigned numbers; a side
//! alone is true if it is not zero. `&&` binds closer than `||`.
use super::expression::{EvaluateError, Expression, ExpressionError, Names};
use std::fmt;

/// A condition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition(
    /// One of these is true: all comparisons of it are.
    Vec<Vec<Comparison>>,
);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Comparison {
    left: Side,
    right: Option<(Operator, Side)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Side {
    Value(Expression),
    /// So many bytes of memory there.
    Memory(usize, Expression),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operator {
    Equal,
    Different,
    AtMost,
    AtLeast,
    Below,
    Above,
}

/// Longer ones first.
const OPERATORS: [(&str, Operator); 6] = [
    ("==", Operator::Equal),
    ("!=", Operator::Different),
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("<", Operator::Below),
    (">", Operator::Above),
];
const UNITS: [(&str, usize); 4] = [("byte", 1), ("word", 2), ("dword", 4), ("qword", 8)];

/// Why text is no condition.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConditionError {
    /// A side is wrong.
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    /// A bracket that is not closed.
    #[error("the bracket after '{0}' is not closed")]
    Bracket(&'static str),
    /// Something behind it.
    #[error("'{0}' is no comparison: ==, !=, <, <=, > and >= are, with && and || between them")]
    Rest(String),
}

/// Why a condition has no value.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UndecidedError {
    /// A name stands for nothing.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    /// Memory that is not mapped, or a device's.
    #[error("memory at {0:#x} cannot be read")]
    Memory(u64),
}

impl Condition {
    /// Parses a condition, which is all of `text`.
    ///
    /// # Errors
    /// [`ConditionError`].
    pub fn parse(text: &str) -> Result<Self, ConditionError> {
        let mut any = vec![vec![]];
        let mut rest = text;
        loop {
            let (comparison, after) = comparison(rest)?;
            if let Some(all) = any.last_mut() {
                all.push(comparison);
            }
            let after = after.trim_start();
            rest = match (after.strip_prefix("&&"), after.strip_prefix("||")) {
                (Some(next), _) => next,
                (_, Some(next)) => {
                    any.push(vec![]);
                    next
                }
                _ if after.is_empty() => return Ok(Self(any)),
                _ => return Err(ConditionError::Rest(after.to_owned())),
            };
        }
    }

    /// Whether it is true; `memory` gives so many bytes at an address, up to eight, as a number.
    ///
    /// # Errors
    /// [`UndecidedError`], if a side that has to be looked at has no value.
    pub fn holds(
        &self,
        names: &impl Names,
        memory: impl Fn(u64, usize) -> Option<u64>,
    ) -> Result<bool, UndecidedError> {
        let value = |side: &Side| match side {
            Side::Value(expression) => Ok(expression.evaluate(names)?),
            Side::Memory(bytes, at) => {
                let at = at.evaluate(names)?;
                memory(at, *bytes).ok_or(UndecidedError::Memory(at))
            }
        };
        for all in &self.0 {
            let mut holds = true;
            for Comparison { left, right } in all {
                holds = match right {
                    None => value(left)? != 0,
                    Some((operator, right)) => operator.compare(value(left)?, value(right)?),
                };
                if !holds {
                    break;
                }
            }
            if holds {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Operator {
    const fn compare(self, left: u64, right: u64) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Different => left != right,
            Self::AtMost => left <= right,
            Self::AtLeast => left >= right,
            Self::Below => left < right,
            Self::Above => left > right,
        }
    }

    fn name(self) -> &'static str {
        OPERATORS.iter().find(|(_, operator)| *operator == self).map_or("", |(name, _)| name)
    }
}

fn comparison(text: &str) -> Result<(Comparison, &str), ConditionError> {
    let (left, rest) = side(text)?;
    let rest = rest.trim_start();
    let found = OPERATORS.iter().find_map(|(name, operator)| Some((*operator, rest.strip_prefix(name)?)));
    match found {
        Some((operator, rest)) => {
            let (right, rest) = side(rest)?;
            Ok((Comparison { left, right: Some((operator, right)) }, rest))
        }
        None => Ok((Comparison { left, right: None }, rest)),
    }
}

fn side(text: &str) -> Result<(Side, &str), ConditionError> {
    let text = text.trim_start();
    // A character, as memory holds it.
    if let Some((character, rest)) = text.strip_prefix('\'').and_then(|after| {
        let (character, rest) = after.split_once('\'')?;
        Some((*character.as_bytes().first().filter(|_| character.len() == 1)?, rest))
    }) {
        return Ok((Side::Value(Expression::number(character.into())), rest));
    }
    for (name, bytes) in UNITS {
        let inside = text.strip_prefix(name).and_then(|rest| rest.trim_start().strip_prefix('['));
        if let Some(inside) = inside {
            let (at, rest) = Expression::parse_front(inside)?;
            let rest = rest.trim_start().strip_prefix(']').ok_or(ConditionError::Bracket(name))?;
            return Ok((Side::Memory(bytes, at), rest));
        }
    }
    let (value, rest) = Expression::parse_front(text)?;
    Ok((Side::Value(value), rest))
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => value.fmt(f),
            Self::Memory(bytes, at) => {
                let unit = UNITS.iter().find(|(_, size)| size == bytes).map_or("", |(name, _)| name);
                write!(f, "{unit}[{at}]")
            }
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, all) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" || ")?;
            }
            for (k, Comparison { left, right }) in all.iter().enumerate() {
                if k > 0 {
                    f.write_str(" && ")?;
                }
                left.fmt(f)?;
                if let Some((operator, right)) = right {
                    write!(f, " {} {right}", operator.name())?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debugger::symbols::{SymbolError, Symbols};
    use proptest::prelude::*;

    struct Known(Symbols);

    impl Names for Known {
        fn register(&self, name: &str) -> Option<u64> {
            match name {
                "rax" => Some(7),
                "rsp" => Some(0x1000),
                _ => None,
            }
        }

        fn symbol(&self, name: &str) -> Result<u64, SymbolError> {
            self.0.find(name)
        }
    }

    fn holds(text: &str) -> Result<bool, UndecidedError> {
        let names = Known(Symbols::new([(0x2000, 8, "message")]));
        let memory = |at, bytes| match (at, bytes) {
            (0x1008, 8) => Some(0x1234_5678_9abc),
            (0x2000, 1) => Some(b'H'.into()),
            _ => None,
        };
        Condition::parse(text).unwrap().holds(&names, memory)
    }

    #[test]
    fn comparisons_of_registers_memory_and_characters() {
        for truth in [
            "$rax == 7",
            "$rax",
            "$rax + 1 >= 8",
            "$rax != 8 && qword[$rsp + 8] > 0x1000",
            "byte[message] == 'H'",
            "$rax < 7 || $rax <= 7",
            "$rax > 9 && $rax == 7 || 7 == $rax",
            // Looked at no further than needed.
            "$rax == 7 || qword[0] == 1",
            "-1 > $rax",
        ] {
            assert_eq!(holds(truth), Ok(true), "{truth}");
        }
        for lie in ["$rax == 8", "0", "$rax == 7 && $rax == 8", "$rax == 8 && qword[0]", "-1 < $rax"] {
            assert_eq!(holds(lie), Ok(false), "{lie}");
        }
        assert_eq!(holds("qword[0]"), Err(UndecidedError::Memory(0)));
        assert!(matches!(holds("$nothing"), Err(UndecidedError::Evaluate(_))));
    }

    #[test]
    fn what_is_written_is_shown_and_mistakes_are_named() {
        for text in ["$rax == 0x7", "byte[message] != 0x48 && $rsp > 0x10 || $rax"] {
            assert_eq!(Condition::parse(text).unwrap().to_string(), text);
        }
        let error = |text| Condition::parse(text).unwrap_err().to_string();
        assert!(error("").starts_with("an address is missing"));
        assert!(error("$rax = 7").starts_with("'= 7' is no comparison"));
        assert!(error("byte[7").contains("not closed"));
        assert!(error("$rax == 7 &&").starts_with("an address is missing"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ $a-z0-9=<>!&|\\[\\]'é+-]{0,40}") {
            if let Ok(condition) = Condition::parse(&text) {
                let shown = condition.to_string();
                prop_assert_eq!(Condition::parse(&shown).unwrap(), condition);
            }
        }
    }
}
