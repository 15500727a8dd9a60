//! What is said about arguments that clap does not take: one sentence, as for every other mistake.
use super::error::say;
use clap::CommandFactory;
use clap::error::ErrorKind;
use std::process::ExitCode;

/// Prints help and version as clap lays them out, and everything else in one sentence; returns the exit status.
pub(super) fn show(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that went away has seen what it wanted.
            let _closed = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _closed = error.print();
            ExitCode::from(2)
        }
        _ => {
            let command = std::env::args_os().nth(1).and_then(|word| word.into_string().ok());
            say(&sentence(&error.render().to_string(), command.as_deref()));
            ExitCode::from(2)
        }
    }
}

/// clap's text in one line: what is wrong, the tips, and where help is.
fn sentence(text: &str, command: Option<&str>) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut wrong: Vec<&str> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("Usage:") || line.starts_with("For more information") {
            break;
        }
        if let Some(tip) = line.strip_prefix("tip: ") {
            parts.push(tip.to_owned());
        } else if !line.is_empty() {
            wrong.push(line.strip_prefix("error: ").unwrap_or(line));
        }
    }
    parts.insert(0, wrong.join(" "));
    let known = command.filter(|word| {
        super::Arguments::command().get_subcommands().any(|subcommand| subcommand.get_name() == *word)
    });
    parts.push(match known {
        Some(command) => format!("see 'trivisor {command} --help'"),
        None => "see 'trivisor --help'".to_owned(),
    });
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Arguments;
    use clap::Parser;

    fn told(arguments: &[&str]) -> String {
        let all = std::iter::once(&"trivisor").chain(arguments);
        let error = Arguments::try_parse_from(all).err().expect("these arguments are wrong");
        sentence(&error.render().to_string(), arguments.first().copied())
    }

    #[test]
    fn each_mistake_is_one_sentence() {
        for (arguments, wanted) in [
            (
                &["run"][..],
                "the following required arguments were not provided: <IMAGE>; see 'trivisor run --help'",
            ),
            (
                &["run", "hello", "--mode", "xen"],
                "invalid value 'xen' for '--mode <MODE>' [possible values: emu, pv, kvm]; see 'trivisor run --help'",
            ),
            (
                &["run", "hello", "--timeout", "soon"],
                "invalid value 'soon' for '--timeout <TIME>': not a duration; write for instance 10s, 500ms or 2m; \
                 see 'trivisor run --help'",
            ),
            (
                &["beench"],
                "unrecognized subcommand 'beench'; a similar subcommand exists: 'bench'; see 'trivisor --help'",
            ),
            (
                &["list", "--jsn"],
                "unexpected argument '--jsn' found; a similar argument exists: '--json'; see 'trivisor list --help'",
            ),
        ] {
            assert_eq!(told(arguments), wanted);
        }
    }
}
