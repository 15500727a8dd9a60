//! What readers meet: the page in a browser, and the CSV in pandas.
//!
//! Without Chromium, or pandas, the tests that need it say that they skip. With `TRIVISOR_AXE=FILE`, the axe-core library
//! (`axe.min.js`), its rules are checked too.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should panic")]

mod available;
#[path = "page/browser.rs"]
mod browser;
#[path = "page/pandas.rs"]
mod pandas;

use browser::{Browser, Scheme};
use std::path::{Path, PathBuf};
use std::process::Command;
use trivisor::bench::language::Language;
use trivisor::bench::record::{self, Row};

/// Widths of a phone and of a screen.
const WIDTHS: [u32; 2] = [390, 1280];
/// Width of A4 between margins, in CSS pixels.
const PAPER: u32 = 680;

fn trivisor(arguments: &[&str]) {
    let out = Command::new(env!("CARGO_BIN_EXE_trivisor")).args(arguments).output().unwrap();
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A small run in every mode of this host, in `dir`.
fn measured(dir: &Path) -> PathBuf {
    let modes: Vec<&str> = available::modes().iter().map(|mode| mode.name()).collect();
    let modes = format!("native,{}", modes.join(","));
    let out = dir.to_str().unwrap();
    trivisor(&[
        "bench",
        "--quick",
        "--no-report",
        "--out",
        out,
        "--mode",
        &modes,
        "--timeout",
        "60s",
        "crc32",
        "sha256",
        "call_ret",
        "syscall",
        "port_out",
        "page_fault",
    ]);
    record::newest(dir).unwrap()
}

/// The same with what makes pages burst: long names, long reasons, words without a place to break, a column that is absent.
fn with_hard_words(csv: &Path, dir: &Path) -> PathBuf {
    let mut rows = record::read(csv).unwrap().rows;
    let sample = rows.iter().find(|row| row.unit == record::UNIT_TASK && row.valid).unwrap().clone();
    let failed = Row {
        value: None,
        valid: false,
        unit: record::UNIT_TEXT.to_owned(),
        metric: record::ALL_METRICS.to_owned(),
        ..sample
    };
    let word = "x".repeat(300);
    rows.push(Row { workload: "w".repeat(64), reason: "the guest failed ".repeat(20), ..failed.clone() });
    rows.push(Row { workload: "sha256".to_owned(), reason: word.clone(), ..failed.clone() });
    rows.push(Row {
        workload: record::WHOLE_RUN.to_owned(),
        mode: "qemu-kvm".to_owned(),
        reason: format!("<b>no</b> & \"never\" {word}"),
        ..failed
    });
    let hard = dir.join("hard.csv");
    record::Writer::create(&hard).unwrap().append(&rows).unwrap();
    hard
}

#[test]
fn the_page_fits_loads_nothing_and_can_be_read_by_everyone() {
    let Some(browser) = Browser::find() else { return };
    let dir = tempfile::tempdir().unwrap();
    let csv = with_hard_words(&measured(dir.path()), dir.path());
    for language in Language::ALL {
        let out = dir.path().join(language.name());
        let (from, to) = (csv.to_str().unwrap(), out.to_str().unwrap());
        trivisor(&["report", "--lang", language.name(), "--csv", from, "--out", to]);
        let page = std::fs::read_to_string(out.join("index.html")).unwrap();
        for scheme in [Scheme::Light, Scheme::Dark] {
            for width in WIDTHS {
                let found = browser.findings(&page, width, scheme);
                assert_eq!(found, Vec::<String>::new(), "{} at {width}, {scheme:?}", language.name());
            }
        }
        let printed = page.replace("@media screen", "@media not all").replace("@media print", "@media all");
        assert_ne!(page, printed);
        let found = browser.findings(&printed, PAPER, Scheme::Light);
        assert_eq!(found, Vec::<String>::new(), "{} on paper", language.name());
    }
}

#[test]
fn the_checks_find_what_they_look_for() {
    let Some(browser) = Browser::find() else { return };
    let page = |body: &str| {
        format!(
            "<!DOCTYPE html><html lang=\"en\"><head><title>t</title></head><body><main>{body}</main></body></html>"
        )
    };
    let good = page("<h1>a</h1><h2>b</h2><p>c <a href=\"#d\">e</a></p><p id=\"d\">f</p>");
    assert_eq!(browser.findings(&good, 390, Scheme::Light), Vec::<String>::new());
    for (body, words) in [
        ("<h1>a</h1><div style=\"width:500px\">wide</div>", "wider than the window"),
        ("<h1>a</h1><img src=\"http://127.0.0.1:9/x.png\" alt=\"x\">", "loads"),
        ("<h1>a</h1><h3>b</h3>", "skips a level"),
        ("<h2>a</h2>", "h1"),
        ("<h1>a</h1><p style=\"color:#999\">pale</p>", "contrast"),
        ("<h1>a</h1><svg width=\"9\" height=\"9\"></svg>", "svg without"),
        ("<h1>a</h1><table><tr><th>a</th></tr></table>", "table without a caption"),
        ("<h1>a</h1><a href=\"#nowhere\">b</a>", "leads nowhere"),
        ("<h1>a</h1><a href=\"#e\"></a><p id=\"e\">e</p>", "link without words"),
        ("<h1>a</h1><p id=\"e\">e</p><p id=\"e\">f</p>", "twice"),
        ("<h1>a</h1><div style=\"overflow-x:auto\"><p style=\"width:900px\">a</p></div>", "keyboard"),
    ] {
        let found = browser.findings(&page(body), 390, Scheme::Light);
        assert!(found.iter().any(|finding| finding.contains(words)), "{words}: {found:?}");
    }
    let dark = page("<h1>a</h1>").replace(
        "<title>",
        "<style>@media (prefers-color-scheme: dark) { h1 { color: #aaa; } }</style><title>",
    );
    assert_eq!(browser.findings(&dark, 390, Scheme::Light), Vec::<String>::new());
    assert!(browser.findings(&dark, 390, Scheme::Dark).iter().any(|finding| finding.contains("contrast")));
    let unnamed = page("<h1>a</h1>").replace(" lang=\"en\"", "");
    assert!(
        browser.findings(&unnamed, 390, Scheme::Light).iter().any(|finding| finding.contains("language"))
    );
}

#[test]
fn pandas_reads_the_csv_as_it_stands() {
    let Some(python) = pandas::python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let csv = with_hard_words(&measured(dir.path()), dir.path());
    let rows = record::read(&csv).unwrap().rows;
    let told = pandas::summary(python, &csv);
    let valid = rows.iter().filter(|row| row.valid).count();
    let values = rows.iter().filter(|row| row.value.is_some()).count();
    let expected = format!(
        "columns {}\nrows {}\nvalid {valid}\nvalues {values}\n",
        record::HEADER.join(","),
        rows.len()
    );
    assert_eq!(told, expected);
}
