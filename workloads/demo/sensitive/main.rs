//! Executes each sensitive instruction in ring 0 and says whether it did what the manual says.
//!
//! Each case sets up a state in which the right result is known and is not what an ordinary Linux process would see:
//! another IF than a process has, tables and selectors of its own, selectors that mean something in Linux's GDT too. An
//! exception of a case is caught and is its result. What a case learns it learns without another sensitive instruction
//! that does not trap: IF, CS and SS from the frame of an exception, bases from MSRs.
//! Source: Robin and Irvine, "Analysis of the Intel Pentium's Ability to Support a Secure Virtual Machine Monitor"
//! (2000); Intel SDM volume 2.
#![no_std]
#![no_main]

mod cases;
mod tables;

use guest::Run;
use guest::console::Line;

guest::entry!(main);

/// What a case found.
#[derive(Clone, Copy)]
pub struct Finding {
    /// What the manual says that it should find.
    right: u64,
    /// What it found.
    seen: u64,
}

fn main(_: &Run) {
    tables::load();
    let (mut right, mut wrong) = (0, 0);
    for case in &cases::ALL {
        let mut line = Line::new();
        line.text(case.name).text(if case.privileged { " (privileged): " } else { ": " });
        if !(case.exists)() {
            line.text("not there").print();
            continue;
        }
        match tables::attempt(case.run) {
            Ok(finding) if finding.seen == finding.right => {
                right += 1;
                line.text("right");
            }
            Ok(finding) => {
                wrong += 1;
                line.text("wrong, ").hexadecimal(finding.seen).text(" instead of ").hexadecimal(finding.right);
            }
            Err(vector) => {
                wrong += 1;
                line.text("wrong, exception ").decimal(vector);
            }
        }
        line.print();
    }
    Line::new().decimal(right).text(" right, ").decimal(wrong).text(" wrong").print();
}
