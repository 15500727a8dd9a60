//! The labs of `docs/labs` work as written: each command that they show is run, and prints the lines that are shown.
use crate::program::{command, modes, tell};
use std::path::Path;
use trivisor::engine::Mode;

/// One command, and the lines that it is to print, in this order.
struct Shown {
    lab: String,
    arguments: Vec<String>,
    lines: Vec<String>,
}

fn shown() -> Vec<Shown> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/labs");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
    files.sort();
    let mut all = Vec::<Shown>::new();
    for file in files {
        let lab = file.file_name().unwrap().to_string_lossy().into_owned();
        let mut inside = false;
        for line in std::fs::read_to_string(&file).unwrap().lines() {
            match line {
                "```console" => inside = true,
                "```" => inside = false,
                _ if !inside => {}
                line => match line.strip_prefix("$ trivisor ") {
                    Some(words) => all.push(Shown {
                        lab: lab.clone(),
                        arguments: words.split_whitespace().map(str::to_owned).collect(),
                        lines: Vec::new(),
                    }),
                    None => all.last_mut().unwrap().lines.push(line.to_owned()),
                },
            }
        }
    }
    all
}

/// Whether a line that was printed is the one that is shown, in which `…` stands for anything.
fn is_as_shown(printed: &str, shown: &str) -> bool {
    let mut parts = shown.split('…');
    let first = parts.next().unwrap();
    let Some(mut rest) = printed.strip_prefix(first) else { return false };
    let mut last = first;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = part;
    }
    last.is_empty() || rest.is_empty()
}

#[test]
fn dots_stand_for_anything() {
    assert!(is_as_shown("abc", "abc") && !is_as_shown("abcd", "abc"));
    assert!(is_as_shown("abcd", "ab…") && is_as_shown("abcd", "…cd") && is_as_shown("abcd", "a…c…"));
    assert!(!is_as_shown("abcd", "…c") && !is_as_shown("abcd", "b…") && !is_as_shown("abcd", "a…x…"));
}

#[test]
fn every_lab_works_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let (modes, all) = (modes(), shown());
    assert!(all.len() >= 8, "{} commands", all.len());
    for Shown { lab, arguments, lines } in all {
        let line = arguments.join(" ");
        let native = ["sites", "pv", "direct", "direct/pv,", "emu/pv,direct/pv"];
        if !modes.contains(&Mode::Pv) && native.iter().any(|word| arguments.iter().any(|a| a == word)) {
            println!("skipped: {lab}: {line}: no mode pv here");
            continue;
        }
        // Scripts are of the checkout, results go elsewhere.
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let arguments: Vec<_> = arguments
            .iter()
            .map(|word| match word.as_str() {
                word if word.starts_with("docs/") => root.join(word).display().to_string(),
                word => word.to_owned(),
            })
            .collect();
        let told = tell(command(&arguments).current_dir(folder.path()));
        assert!(told.status.is_some_and(|status| status < 2), "{lab}: {line}: {told:?}");
        let text = format!("{}\n{}", told.out, told.err);
        let mut printed = text.lines();
        for shown in lines {
            assert!(
                printed.any(|line| is_as_shown(line.trim_end(), &shown)),
                "{lab}: {line}: '{shown}' is not printed, or not there:\n{text}"
            );
        }
    }
}
