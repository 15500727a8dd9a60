//! The commands by name: abbreviations, syntax, what each does, an example. Parser and help both read this table.

/// What a word at the start of a line means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verb {
    Step,
    Next,
    Continue,
    ReverseStep,
    ReverseNext,
    ReverseContinue,
    WhoWrote,
    Rewind,
    Snapshot,
    Until,
    Finish,
    Break,
    Watch,
    ReadWatch,
    AccessWatch,
    Unwatch,
    Catch,
    Delete,
    Info,
    Registers,
    Set,
    Print,
    Examine,
    Memory,
    Disassemble,
    Lens,
    Walk,
    Tlb,
    Device,
    Chips,
    Trace,
    Stats,
    Sites,
    Gdt,
    Idt,
    Backtrace,
    Symbols,
    Cpus,
    Cpu,
    Mode,
    Restart,
    Save,
    Restore,
    Help,
    Quit,
}

/// One row of the catalogue.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) verb: Verb,
    pub(super) name: &'static str,
    /// Abbreviations beside every prefix that is not ambiguous.
    pub(super) aliases: &'static [&'static str],
    pub(super) syntax: &'static str,
    pub(super) about: &'static str,
    pub(super) example: &'static str,
}

macro_rules! rows {
    ($($verb:ident $name:literal [$($alias:literal),*] $syntax:literal, $about:literal, $example:literal;)*) => {
        &[$(Row {
            verb: Verb::$verb,
            name: $name,
            aliases: &[$($alias),*],
            syntax: $syntax,
            about: $about,
            example: $example,
        }),*]
    };
}

pub(super) const ROWS: &[Row] = rows! {
    Step "step" ["s", "si", "stepi"] "step [N]",
        "Execute one instruction, or N. An interrupt that is delivered counts as one.", "step 3";
    Next "next" ["n", "ni", "nexti"] "next [N]",
        "Like step, but calls, system calls, repeated string instructions and HLT run to the instruction after them.",
        "next";
    Continue "continue" ["c", "cont"] "continue",
        "Run until a breakpoint, Ctrl-C, --timeout or the guest's end.", "continue";
    ReverseStep "reverse-step" ["rs", "rsi", "reverse-stepi"] "reverse-step [N]",
        "Go back one instruction, or N; or the delivery of one interrupt.", "reverse-step 3";
    ReverseNext "reverse-next" ["rn", "rni", "reverse-nexti"] "reverse-next [N]",
        "Like reverse-step, but over calls and interrupts that have come back.", "reverse-next";
    ReverseContinue "reverse-continue" ["rc"] "reverse-continue",
        "Go back to the breakpoint that was met last, to before the last access to what is watched, or to the beginning.", "reverse-continue";
    WhoWrote "who-wrote" ["ww"] "who-wrote ADDR [LENGTH]",
        "Go back to the instruction that wrote to the LENGTH bytes (8) at ADDR last.", "who-wrote $rsp+8 4";
    Rewind "rewind" [] "rewind [NUMBER]",
        "Go back to a snapshot in memory, the last one if no other is named, and on from there in emu with counted time, forwards and \
         back. In pv, kvm, and emu by the host's clock snapshots are kept as the guest goes on; 'info snapshots' lists them.", "rewind";
    Snapshot "snapshot" [] "snapshot", "Keep a snapshot of the guest in memory, for rewind, and list all.", "snapshot";
    Until "until" ["u", "advance"] "until ADDR", "Run until ADDR, or until something else stops the guest.",
        "until guest_start+0x20";
    Finish "finish" ["fin"] "finish", "Run until this function returns to its caller, and show RAX.", "finish";
    Break "break" ["b", "br"] "break ADDR [if CONDITION]",
        "Stop before the instruction at ADDR, if CONDITION is true there: comparisons (== != < <= > >=, unsigned) of registers, \
         symbols, numbers, characters and memory (byte, word, dword or qword[ADDR]), with && and || between. Alone it lists \
         the breakpoints.", "break workload_main if $rdi > 3";
    Watch "watch" [] "watch ADDR [LENGTH]",
        "Stop behind an instruction that writes to the LENGTH bytes (8) at ADDR, whatever it writes, and show the value before and \
         after. In kvm four aligned pieces cost nothing; more are looked for by the interpreter.", "watch $rsp+8 4";
    ReadWatch "rwatch" [] "rwatch ADDR [LENGTH]", "Like watch, but stop at reads.", "rwatch 0x6000 4";
    AccessWatch "awatch" [] "awatch ADDR [LENGTH]", "Like watch, but stop at reads and writes.", "awatch 0x6000 4";
    Unwatch "unwatch" [] "unwatch [NUMBER]", "Delete a watchpoint, or all; breakpoints stay.", "unwatch 2";
    Catch "catch" [] "catch exit|interrupt|exception|cr-write|device [WHICH]",
        "Stop behind an instruction that makes such an event, or at the handler that it enters. 'exit CAUSE [WHICH]': CAUSE is a \
         word of the trace (port-write, mmio, msr, cpuid, halt), WHICH a port, address, MSR or leaf. Else WHICH is a vector, the \
         number of a control register, or the name of a device.", "catch exit port-write 0x3f8";
    Delete "delete" ["d", "del"] "delete [NUMBER]", "Delete a breakpoint, catchpoint or watchpoint, or all.", "delete 1";
    Info "info" ["i"] "info break|registers|snapshots", "List the breakpoints and watchpoints, show the registers, or list the snapshots in memory.", "info break";
    Registers "registers" ["r", "regs"] "registers [all|segments|control|debug|msr|xmm|NAME]",
        "Show the registers; a * marks what changed since the guest was last resumed.", "registers control";
    Set "set" [] "set $REGISTER = VALUE", "Change a general register, RIP or RFLAGS.", "set $rax = 5";
    Print "print" ["p"] "print EXPRESSION", "Show a value: hexadecimal, decimal, and the symbol it lies in.",
        "print $rsp + 8";
    Examine "x" [] "x/[COUNT][FORMAT][SIZE] [phys] ADDR",
        "Examine memory. FORMAT: x hex, d signed, u unsigned, o octal, t binary, a address, c character, s string, \
         i instruction. SIZE: b 1, h 2, w 4, g 8 bytes. ?? is what is not mapped or belongs to a device.",
        "x/8xg $rsp";
    Memory "memory" ["mem", "m"] "memory [phys] ADDR [LENGTH]", "Dump memory as bytes and text.",
        "memory phys 0x6000 64";
    Disassemble "disassemble" ["dis", "disas"] "disassemble [ADDR] [COUNT]",
        "Show instructions, from RIP unless said otherwise. => is the next one, * a breakpoint.",
        "disassemble guest_start 12";
    Lens "lens" [] "lens [ADDR]",
        "Look at one instruction, from RIP unless said otherwise, and what becomes of it: in the interpreter, the translator, pv and \
         kvm, whichever runs the guest now. With the code that stands for it, counts and costs where they are known.",
        "lens guest_start";
    Walk "walk" ["w"] "walk ADDR", "Translate a virtual address and draw each level of the page tables.", "walk $rsp";
    Tlb "tlb" [] "tlb [ADDR [LENGTH]]",
        "Show what the engine remembers of the page tables: emu's soft TLB and windows, pv's mirror; for one ADDR beside its \
         page walk, so that what is stale shows.", "tlb $rip";
    Device "device" ["dev", "devices"] "device [NAME]",
        "List the devices, or show the registers of one (or of all whose names begin so) by name, with their flags. Nothing \
         is read the guest's way: what a read would clear or consume stays.", "device uart16550";
    Chips "chips" ["interrupts", "irq"] "chips",
        "Show which interrupts wait where, and why they are not delivered; then 8259s, I/O APIC, local APICs and 8254 by \
         register.", "chips";
    Trace "trace" ["t"] "trace [on|off|show [N]|costs]",
        "Record what leaves the guest (ports, device memory, MSRs, CPUID, interrupts), and show the last N events, with what they \
         took where that is known; or sum that up by kind.",
        "trace show 10";
    Sites "sites" [] "sites [count|cost]",
        "List the instructions that mode pv patched: how, how often executed, and what that took; by address, or the most first.",
        "sites count";
    Stats "stats" [] "stats", "Count what the engine did, by cause, in all and since the last time.", "stats";
    Gdt "gdt" [] "gdt", "Decode the global descriptor table.", "gdt";
    Idt "idt" [] "idt", "Decode the interrupt descriptor table.", "idt";
    Backtrace "backtrace" ["bt", "where"] "backtrace",
        "Show the callers, as far as prologues, frame pointers and return addresses tell.", "backtrace";
    Symbols "symbols" ["sym"] "symbols [PATTERN]", "List symbols whose name holds PATTERN.", "symbols console";
    Cpus "cpus" ["threads"] "cpus", "List the guest's CPUs: what each does, and where it stands.", "cpus";
    Cpu "cpu" ["thread"] "cpu NUMBER",
        "Turn to another CPU: steps, registers and all that is shown are about that one, until another one meets a breakpoint. \
         When the guest goes on, all of them do; while one steps, the others stand.", "cpu 1";
    Mode "mode" [] "mode [emu|pv|kvm]",
        "Say who executes the guest, and what this mode can do here; or let the guest go on in another mode. Breakpoints stay.",
        "mode kvm";
    Restart "restart" [] "restart", "Start the guest anew; breakpoints stay.", "restart";
    Save "save" [] "save FILE", "Write the whole machine to FILE: a snapshot, for restore and for 'trivisor run --restore'.", "save before.snap";
    Restore "restore" [] "restore FILE",
        "Go to where the snapshot FILE was taken, if it is of a machine like this; breakpoints stay.", "restore before.snap";
    Help "help" ["h", "?"] "help [COMMAND]", "List the commands, or explain one.", "help x";
    Quit "quit" ["q", "exit"] "quit", "End the session and the guest.", "quit";
};

/// The rows that `word` may mean: one if it is a name, an abbreviation or an unambiguous prefix.
pub(super) fn find(word: &str) -> Vec<&'static Row> {
    let exact = ROWS.iter().find(|row| row.name == word || row.aliases.contains(&word));
    match exact {
        Some(row) => vec![row],
        None => ROWS.iter().filter(|row| row.name.starts_with(word)).collect(),
    }
}

/// Columns that help takes: those of the narrowest usual terminal.
const COLUMNS: usize = 80;
/// Columns of the syntax in the list of commands.
const SYNTAX: usize = 24;

/// Breaks `text` into lines of at most `columns` characters, between words.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= columns {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// The list of all commands.
pub(super) fn overview() -> String {
    let mut text = Vec::new();
    for row in ROWS {
        let first = row.about.split_inclusive(". ").next().unwrap_or(row.about);
        let mut about = wrap(first, COLUMNS - SYNTAX - 2).into_iter();
        if row.syntax.len() > SYNTAX {
            text.push(row.syntax.to_owned());
        } else {
            text.push(format!("{:SYNTAX$}  {}", row.syntax, about.next().unwrap_or_default()));
        }
        text.extend(about.map(|line| format!("{:SYNTAX$}  {line}", "")));
    }
    text.extend(wrap(
        "ADDR is a sum of numbers (0x… or decimal), symbols and registers, as guest_start+8 or $rsp-0x10. Commands \
         may be shortened. An empty line repeats step, next or x. 'help COMMAND' says more.",
        COLUMNS,
    ));
    text.join("\n")
}

/// What one command does, with an example.
pub(super) fn explain(row: &Row) -> String {
    let mut text = vec![row.syntax.to_owned()];
    text.extend(wrap(row.about, COLUMNS));
    if !row.aliases.is_empty() {
        text.push(format!("short: {}", row.aliases.join(", ")));
    }
    text.push(format!("example: {}", row.example));
    text.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::command;
    use super::*;

    #[test]
    fn gdbs_abbreviations_mean_what_they_do_there() {
        for (word, verb) in [
            ("s", Verb::Step),
            ("n", Verb::Next),
            ("c", Verb::Continue),
            ("b", Verb::Break),
            ("r", Verb::Registers),
            ("x", Verb::Examine),
            ("bt", Verb::Backtrace),
            ("q", Verb::Quit),
            ("disas", Verb::Disassemble),
            ("fini", Verb::Finish),
        ] {
            let found = find(word);
            assert!(found.len() == 1 && found[0].verb == verb, "{word}: {found:?}");
        }
        assert!(find("st").len() > 1);
        assert!(find("nonsense").is_empty());
    }

    #[test]
    fn no_name_or_abbreviation_means_two_commands() {
        let mut words: Vec<_> = ROWS.iter().flat_map(|r| r.aliases.iter().copied().chain([r.name])).collect();
        words.sort_unstable();
        for pair in words.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
    }

    #[test]
    fn help_fits_a_terminal() {
        let all = ROWS.iter().map(explain).chain([overview()]);
        for line in all.collect::<Vec<_>>().iter().flat_map(|text| text.lines()) {
            assert!(line.chars().count() <= COLUMNS, "{line}");
        }
        assert_eq!(wrap("aa bb  cc", 5), ["aa bb", "cc"]);
    }

    #[test]
    fn every_example_is_a_command() {
        for row in ROWS {
            let parsed = command::parse(row.example);
            assert!(matches!(parsed, Ok(Some(_))), "{}: {parsed:?}", row.example);
        }
    }
}
