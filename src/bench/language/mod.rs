//! The languages of the page and its figures, and every text of theirs in each of them.
//!
//! A [`Text`] holds all translations side by side, so that one without a translation does not compile. The CSV, the
//! terminal and messages stay English: they are for programs and for those who type commands. What comes out of a CSV file
//! (reasons, facts) is shown as it stands there.

pub mod figures;
pub mod page;
pub mod published;
pub mod terms;

use super::quantity;

/// A language of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Language {
    /// English.
    #[default]
    English,
    /// German.
    German,
    /// Chinese in simplified characters.
    Chinese,
}

impl Language {
    /// All of them.
    pub const ALL: [Language; 3] = [Language::English, Language::German, Language::Chinese];

    /// The name by which `--lang` knows it.
    pub const fn name(self) -> &'static str {
        match self {
            Language::English => "en",
            Language::German => "de",
            Language::Chinese => "zh",
        }
    }

    /// Its tag (BCP 47), for `lang` attributes: browsers choose glyphs, hyphens and voices by it.
    pub const fn tag(self) -> &'static str {
        match self {
            Language::English => "en",
            Language::German => "de",
            Language::Chinese => "zh-Hans",
        }
    }

    /// What its speakers call it.
    pub const fn own_name(self) -> &'static str {
        match self {
            Language::English => "English",
            Language::German => "Deutsch",
            Language::Chinese => "中文",
        }
    }

    /// The language of this [`name`](Self::name).
    pub fn find(name: &str) -> Option<Language> {
        Self::ALL.into_iter().find(|language| language.name() == name)
    }

    /// The language of pictures drawn by pixels: the embedded font has no Chinese characters, and one that has them would
    /// be larger than the program.
    pub const fn of_pixels(self) -> Language {
        match self {
            Language::English | Language::Chinese => Language::English,
            Language::German => Language::German,
        }
    }

    /// A time in nanoseconds, as [`quantity::time`].
    pub fn time(self, ns: f64) -> String {
        self.number(quantity::time(ns))
    }

    /// A count, as [`quantity::count`].
    pub fn count(self, value: f64) -> String {
        self.number(quantity::count(value))
    }

    /// A ratio, as [`quantity::ratio`].
    pub fn ratio(self, value: f64) -> String {
        self.number(quantity::ratio(value))
    }

    /// A number formatted with a decimal point, with the language's decimal sign.
    pub fn number(self, formatted: String) -> String {
        match self {
            Language::German => formatted.replace('.', ","),
            Language::English | Language::Chinese => formatted,
        }
    }

    /// Members of a list, one after the other.
    pub fn list<S: AsRef<str>>(self, members: &[S]) -> String {
        let members: Vec<&str> = members.iter().map(AsRef::as_ref).collect();
        members.join(terms::LIST_SEPARATOR.of(self))
    }
}

/// One text in every language. `{name}` stands for a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    /// English.
    pub en: &'static str,
    /// German.
    pub de: &'static str,
    /// Chinese.
    pub zh: &'static str,
}

impl Text {
    /// The text in `language`.
    pub const fn of(&self, language: Language) -> &'static str {
        match language {
            Language::English => self.en,
            Language::German => self.de,
            Language::Chinese => self.zh,
        }
    }

    /// The text in `language` with its values, by name. What looks like a placeholder in a value stays.
    pub fn with(&self, language: Language, values: &[(&str, &str)]) -> String {
        let mut out = String::new();
        let mut rest = self.of(language);
        while let Some((before, after)) = rest.split_once('{') {
            out.push_str(before);
            let (name, after) = after.split_once('}').unwrap_or((after, ""));
            out.push_str(values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value));
            rest = after;
        }
        out.push_str(rest);
        out
    }
}

/// Defines the texts of a module as constants, and `ALL`, which has each with its name, for tests.
macro_rules! texts {
    ($($(#[$about:meta])* $name:ident { en $en:literal de $de:literal zh $zh:literal })*) => {
        $($(#[$about])* #[doc = $en] pub const $name: $crate::bench::language::Text =
            $crate::bench::language::Text { en: $en, de: $de, zh: $zh };)*

        /// All texts of this module by name.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, $crate::bench::language::Text)] = &[$((stringify!($name), $name)),*];
    };
}
use texts;

/// Every text of the modules by name, for tests.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = &'static (&'static str, Text)> {
    [figures::ALL, page::ALL, published::ALL, terms::ALL].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placeholders(text: &str) -> Vec<&str> {
        let mut names: Vec<&str> =
            text.split('{').skip(1).filter_map(|part| Some(part.split_once('}')?.0)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    #[test]
    fn translations_have_the_same_values() {
        for (name, text) in all() {
            for language in Language::ALL {
                let words = text.of(language);
                assert_eq!(placeholders(words), placeholders(text.en), "{name} in {}", language.name());
                assert_eq!(words.matches('{').count(), words.matches('}').count(), "{name}");
                assert!(!words.trim_matches(' ').is_empty(), "{name} in {} is empty", language.name());
                assert!(!words.contains("  "), "{name} in {} has a double blank", language.name());
            }
        }
    }

    #[test]
    fn translations_are_translated() {
        let chinese =
            |c: char| ('\u{3000}'..='\u{9fff}').contains(&c) || ('\u{ff00}'..='\u{ffef}').contains(&c);
        for (name, text) in all() {
            assert!(text.zh.chars().any(chinese), "{name} has no Chinese sign");
            assert!(!text.de.chars().any(chinese) && !text.en.chars().any(chinese), "{name}");
            // Single terms may be alike in English and German, sentences may not.
            assert!(text.en.split(' ').count() < 4 || text.en != text.de, "{name} is not translated");
        }
    }

    #[test]
    fn values_are_put_in_once() {
        let text = Text { en: "{a} of {b}", de: "{b}: {a}", zh: "{b}：{a}" };
        let values = [("a", "{b}"), ("b", "2")];
        assert_eq!(text.with(Language::English, &values), "{b} of 2");
        assert_eq!(text.with(Language::German, &values), "2: {b}");
    }

    #[test]
    fn numbers_follow_the_language() {
        assert_eq!(Language::German.time(1234.0), "1,23 µs");
        assert_eq!(Language::Chinese.ratio(12_345.0), "12\u{a0}345×");
        assert_eq!(Language::German.ratio(1.018), "1,02×");
        assert_eq!(Language::Chinese.list(&["a", "b"]), "a、b");
    }

    #[test]
    fn names_find_their_language() {
        for language in Language::ALL {
            assert_eq!(Language::find(language.name()), Some(language));
        }
        assert_eq!(Language::find("fr"), None);
    }
}
