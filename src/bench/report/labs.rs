//! The page's list of labs, with links where the project's files are beside the page.

use super::html::escape;
use crate::bench::language::{Language, Text, page as words};
use std::path::{Path, PathBuf};

/// Where the labs are in the project.
const FOLDER: &str = "docs/labs";

/// The labs in their order: file, what is seen, and the command that begins it.
const LABS: [(&str, Text, &str); 5] = [
    ("1-trap-and-emulate.md", words::LAB_TRAP, "trivisor run --engine direct --interface none sensitive"),
    ("2-page-fault.md", words::LAB_PAGE_FAULT, "trivisor debug demand_map"),
    (
        "3-hypercalls.md",
        words::LAB_HYPERCALLS,
        "trivisor bench map_batch --mode emu/pv,direct/pv --quick --out lab3",
    ),
    ("4-lost-interrupt.md", words::LAB_INTERRUPT, "trivisor run --mode emu --deterministic lost_wakeup"),
    ("5-lockstep.md", words::LAB_LOCKSTEP, "trivisor lockstep hello"),
];

/// The way from the folder `page` to that of the labs, if it is within a checkout of the project, as a relative address.
pub(super) fn near(page: &Path) -> Option<String> {
    let page = page.canonicalize().ok()?;
    let mut way = PathBuf::new();
    for folder in page.ancestors() {
        if LABS.iter().all(|(file, ..)| folder.join(FOLDER).join(file).is_file()) {
            return way.join(FOLDER).to_str().map(str::to_owned);
        }
        way.push("..");
    }
    None
}

/// Adds the list; with links if the labs are at `folder`.
pub(super) fn section(out: &mut String, folder: Option<&str>, language: Language) {
    let (heading, about) = (words::LABS.of(language), words::LABS_ABOUT.of(language));
    out.push_str(&format!("<section>\n<h2 id=\"labs\">{heading}</h2>\n<p>{about}</p>\n<ol>\n"));
    for (file, what, command) in LABS {
        let what = escape(what.of(language));
        let named = match folder {
            Some(folder) => format!("<a href=\"{}/{file}\">{what}</a>", escape(folder)),
            None => format!("{what} ({FOLDER}/{file})"),
        };
        out.push_str(&format!("<li>{named}<br><code>{}</code></li>\n", escape(command)));
    }
    out.push_str("</ol>\n</section>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lab_is_listed_with_its_command() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER);
        let listed = std::fs::read_to_string(folder.join("README.md")).unwrap();
        assert_eq!(listed.matches("](").count(), LABS.len());
        for (file, _, command) in LABS {
            assert!(listed.contains(&format!("]({file})")), "{file}");
            let lab = std::fs::read_to_string(folder.join(file)).unwrap();
            assert!(lab.contains(command), "{file} does not begin with {command}");
        }
    }

    #[test]
    fn links_lead_to_the_labs_of_the_checkout_and_of_nothing_else() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let near_src = near(&root.join("src/bench")).unwrap();
        assert_eq!(near_src, "../../docs/labs");
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(near(elsewhere.path()), None);
        let mut page = String::new();
        section(&mut page, None, Language::English);
        assert!(!page.contains("href") && page.contains("docs/labs/2-page-fault.md"));
    }
}
