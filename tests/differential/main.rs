//! Compares the emulator with the host's CPU, instruction by instruction and in short programs.
//!
//! Each case runs natively in a child process (`oracle`) and in ring 3 of a small guest (`subject`), at the same
//! addresses, from the same registers and memory; then registers, defined flags, memory and exceptions must be equal.
//! `forms` holds what is not compared, and why.
//!
//! Environment: `TRIVISOR_DIFF_SEED` and `TRIVISOR_DIFF_COUNT` (instructions), `TRIVISOR_DIFF_PROGRAMS`,
//! `TRIVISOR_DIFF_LENGTH` (instructions in a program), `TRIVISOR_DIFF_ONLY` (forms whose name contains this),
//! `TRIVISOR_DIFF_FAILURES` (failing forms after which a run ends), `TRIVISOR_DIFF_KEEP=1` (write failing cases, shrunk, to `tests/differential/regressions`).
#![expect(unreachable_pub, reason = "an item of a test binary is public to its other files only")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test says no by panicking")]
mod case;
mod encode;
mod forms;
mod generate;
mod oracle;
mod rng;
mod shrink;
mod subject;
mod text;

use case::{Case, End, Mask, Observation, differences};
use iced_x86::{Code, Decoder, DecoderOptions};
use oracle::{BATCH, Oracle};
use rng::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;
use subject::{Subject, VcpuSubject, Way};
use trivisor::emulator::{EmuEngine, Emulator};

const DEFAULT_SEED: u64 = 1;
const INSTRUCTIONS: u64 = 200_000;
const PROGRAMS: u64 = 10_000;
const PROGRAM_LENGTH: u64 = 20;
/// Failing forms after which a run gives up.
const MOST_FAILURES: u64 = 40;

fn setting(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.replace('_', "").parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}"))
}

/// The subjects: the interpreter is stepped, the translator takes a case as a whole.
const SUBJECTS: [(EmuEngine, Way); 2] = [(EmuEngine::Single, Way::Step), (EmuEngine::Translator, Way::Run)];

fn emulator(engine: EmuEngine, way: Way) -> VcpuSubject {
    VcpuSubject::new(way, |platform| Ok(Emulator::new(platform.ram().clone(), engine))).unwrap()
}

fn decode(case: &Case, bytes: &[u8]) -> Code {
    Decoder::with_ip(case.bits, bytes, 0, DecoderOptions::NONE).decode().code()
}

/// The lines in which the two sides differ. `None`: there was no native result.
fn compare(case: &Case, native: Option<&Observation>, subject: &Observation) -> Option<Vec<String>> {
    let native = native.filter(|n| n.end != End::Endless)?;
    // The one that faults is the last one executed.
    let mut at = case.registers.rip;
    let last = case.program.iter().find(|bytes| {
        let here = at == native.registers.rip;
        at += bytes.len() as u64;
        here
    });
    // Its fault comes before the error that waits, which kept the subject from looking for the page.
    let error_waits =
        u16::from_le_bytes([subject.registers.xsave[2], subject.registers.xsave[3]]) & 0x80 != 0;
    let faulted = matches!(native.end, End::Exception { vector: 14, .. }) && error_waits;
    let last = last.map(|bytes| Decoder::with_ip(case.bits, bytes, 0, DecoderOptions::NONE).decode());
    let unordered = last.map_or(&[][..], |instruction| forms::unordered_faults(instruction.code()));
    if *forms::IS_AMD && faulted && last.is_some_and(|instruction| forms::stores_from_x87(&instruction)) {
        return None;
    }
    let loose = *forms::IS_AMD && last.is_some_and(|instruction| forms::loose_faults(&instruction));
    Some(differences(native, subject, Mask { flags: generate::undefined_flags(case), unordered, loose }))
}

/// What a run found.
#[derive(Default)]
struct Findings {
    compared: u64,
    exceptions: u64,
    /// Instructions that lie before the end of their programs.
    executed: u64,
    /// Cases without a native result: they did not end, or the child died.
    lost: u64,
    instructions: BTreeMap<String, u64>,
    /// Forms that the subject says it lacks.
    unsupported: BTreeSet<String>,
    failures: BTreeMap<String, (Case, Vec<String>)>,
}

impl Findings {
    fn note(&mut self, case: &Case, native: Option<&Observation>, subject: &Observation) {
        let Some(lines) = compare(case, native, subject) else {
            self.lost += 1;
            return;
        };
        if subject.end == End::Unsupported {
            let at = subject.registers.rip;
            let mut start = case.registers.rip;
            let culprit = case.program.iter().find(|bytes| {
                start += bytes.len() as u64;
                start > at
            });
            self.unsupported
                .insert(culprit.map_or_else(String::new, |bytes| format!("{:?}", decode(case, bytes))));
            return;
        }
        self.compared += 1;
        self.exceptions += u64::from(matches!(native.unwrap().end, End::Exception { .. }));
        let mut at = case.registers.rip;
        for bytes in &case.program {
            if at == native.unwrap().registers.rip {
                break;
            }
            at += bytes.len() as u64;
            self.executed += 1;
        }
        let codes: Vec<_> = case.program.iter().map(|bytes| decode(case, bytes)).collect();
        for code in &codes {
            *self.instructions.entry(format!("{:?}", code.mnemonic()).to_lowercase()).or_default() += 1;
        }
        if !lines.is_empty() {
            let name = if codes.len() == 1 {
                format!("{:?}", codes[0])
            } else {
                format!("program {}", self.failures.len())
            };
            self.failures.entry(name).or_insert_with(|| (case.clone(), lines));
        }
    }

    /// Prints the failures, each as small as it can be made, and fails if there are any.
    fn conclude(self, oracle: &mut Oracle, subject: &mut dyn Subject) {
        println!(
            "{} cases compared: {} instructions executed, {} exceptions, {} without a native result",
            self.compared, self.executed, self.exceptions, self.lost
        );
        if self.failures.is_empty() && self.unsupported.is_empty() {
            return;
        }
        let mut report = format!("not supported: {:?}\n", self.unsupported);
        for (name, (case, _)) in &self.failures {
            let mut lines_of = |case: &Case| {
                compare(case, oracle.run(case).as_ref(), &subject.run(case)).unwrap_or_default()
            };
            let small = shrink::shrink(case, |c| !lines_of(c).is_empty());
            let lines = lines_of(&small);
            let _ = writeln!(report, "== {name}");
            for line in lines {
                let _ = writeln!(report, "   {line}");
            }
            let text = text::write(&small);
            let _ = writeln!(report, "{}", text.lines().map(|l| format!("      {l}\n")).collect::<String>());
            if std::env::var_os("TRIVISOR_DIFF_KEEP").is_some() {
                std::fs::write(regressions().join(format!("{}.case", name.replace(' ', "_"))), text).unwrap();
            }
        }
        panic!("{} forms differ from the host's CPU:\n{report}", self.failures.len());
    }
}

/// Runs cases on both sides, a batch at a time: the child works while the subject does.
fn run(oracle: &mut Oracle, subject: &mut dyn Subject, mut next: impl FnMut() -> Option<Case>) -> Findings {
    let mut findings = Findings::default();
    let most = setting("TRIVISOR_DIFF_FAILURES", MOST_FAILURES) as usize;
    loop {
        let batch: Vec<Case> = std::iter::from_fn(&mut next).take(BATCH).collect();
        if batch.is_empty() || findings.failures.len() >= most {
            return findings;
        }
        oracle.submit(&batch);
        let observed: Vec<_> = batch.iter().map(|case| subject.run(case)).collect();
        for ((case, subject), native) in batch.iter().zip(&observed).zip(oracle.results()) {
            findings.note(case, native.as_ref(), subject);
        }
    }
}

fn selected_forms() -> Vec<Code> {
    let only = std::env::var("TRIVISOR_DIFF_ONLY").unwrap_or_default();
    forms::in_scope().into_iter().filter(|code| format!("{code:?}").contains(&only)).collect()
}

#[test]
fn random_instructions_agree_with_the_host() {
    random_instructions(EmuEngine::Single, Way::Step);
}

#[test]
fn random_instructions_agree_with_the_host_when_translated() {
    random_instructions(EmuEngine::Translator, Way::Run);
}

fn random_instructions(engine: EmuEngine, way: Way) {
    let seed = setting("TRIVISOR_DIFF_SEED", DEFAULT_SEED);
    let count = setting("TRIVISOR_DIFF_COUNT", INSTRUCTIONS);
    let forms = selected_forms();
    println!("{}: seed {seed}, {count} instructions of {} forms", engine.name(), forms.len());
    let mut rng = Rng::new(seed);
    let mut made = 0;
    let (mut oracle, mut subject) = (Oracle::start(), emulator(engine, way));
    let findings = run(&mut oracle, &mut subject, || {
        // Form after form, so that each has its share. A form whose registers cannot be made fit gets another try.
        let code = forms[made as usize % forms.len()];
        let case = (0..100).find_map(|_| generate::single(code, &mut rng));
        made += 1;
        (made <= count).then(|| case.unwrap_or_else(|| panic!("{code:?} cannot be generated")))
    });
    for (mnemonic, n) in &findings.instructions {
        print!("{mnemonic} {n}  ");
    }
    println!("\n{} mnemonics; not compared:", findings.instructions.len());
    let mut reasons = BTreeMap::<_, Vec<_>>::new();
    for code in Code::values() {
        if let Some(reason) = forms::excluded(code) {
            reasons.entry(reason).or_default().push(format!("{code:?}"));
        }
    }
    for (reason, codes) in reasons {
        let some = if codes.len() > 40 { format!("{} forms", codes.len()) } else { codes.join(" ") };
        println!("  {reason}: {some}");
    }
    findings.conclude(&mut oracle, &mut subject);
}

#[test]
fn random_programs_agree_with_the_host() {
    random_programs(EmuEngine::Single, Way::Step);
}

#[test]
fn random_programs_agree_with_the_host_when_translated() {
    random_programs(EmuEngine::Translator, Way::Run);
}

fn random_programs(engine: EmuEngine, way: Way) {
    let seed = setting("TRIVISOR_DIFF_SEED", DEFAULT_SEED);
    let count = setting("TRIVISOR_DIFF_PROGRAMS", PROGRAMS);
    let length = setting("TRIVISOR_DIFF_LENGTH", PROGRAM_LENGTH) as usize;
    let forms = selected_forms();
    println!("{}: seed {seed}, {count} programs of {length} instructions", engine.name());
    let mut rng = Rng::new(seed);
    let mut made = 0;
    let (mut oracle, mut subject) = (Oracle::start(), emulator(engine, way));
    let findings = run(&mut oracle, &mut subject, || {
        made += 1;
        (made <= count).then(|| generate::program(&forms, length, &mut rng))
    });
    findings.conclude(&mut oracle, &mut subject);
}

#[test]
fn random_32_bit_programs_agree_with_the_host() {
    random_narrow_programs(EmuEngine::Single, Way::Step);
}

#[test]
fn random_32_bit_programs_agree_with_the_host_when_translated() {
    random_narrow_programs(EmuEngine::Translator, Way::Run);
}

fn random_narrow_programs(engine: EmuEngine, way: Way) {
    let seed = setting("TRIVISOR_DIFF_SEED", DEFAULT_SEED);
    let count = setting("TRIVISOR_DIFF_PROGRAMS", PROGRAMS);
    let length = setting("TRIVISOR_DIFF_LENGTH", PROGRAM_LENGTH) as usize;
    println!("{}: seed {seed}, {count} programs of {length} 32-bit instructions", engine.name());
    let mut rng = Rng::new(seed);
    let mut made = 0;
    let (mut oracle, mut subject) = (Oracle::start(), emulator(engine, way));
    let findings = run(&mut oracle, &mut subject, || {
        made += 1;
        (made <= count).then(|| generate::narrow_program(length, &mut rng))
    });
    assert!(findings.executed > 4 * count.min(1000), "programs end too early to say much");
    findings.conclude(&mut oracle, &mut subject);
}

fn regressions() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/differential/regressions")
}

#[test]
fn cases_that_once_differed_agree() {
    for (engine, way) in SUBJECTS {
        check_regressions(engine, way);
    }
}

fn check_regressions(engine: EmuEngine, way: Way) {
    let (mut oracle, mut subject) = (Oracle::start(), emulator(engine, way));
    let mut failed = Vec::new();
    let own = (!*forms::IS_AMD).then(|| regressions().join("intel"));
    let folders = std::iter::once(regressions()).chain(own);
    for entry in folders.flat_map(|folder| std::fs::read_dir(folder).unwrap()) {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "case") {
            continue;
        }
        let case = text::read(&std::fs::read_to_string(&path).unwrap());
        let lines = compare(&case, oracle.run(&case).as_ref(), &subject.run(&case)).unwrap_or_default();
        if !lines.is_empty() {
            failed.push(format!("{}:\n  {}", path.display(), lines.join("\n  ")));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_case_survives_being_written_and_read() {
    let mut rng = Rng::new(7);
    for code in [Code::Add_rm64_r64, Code::VEX_Vaddps_ymm_ymm_ymmm256, Code::Retnq] {
        let case = generate::single(code, &mut rng).unwrap();
        assert!(text::read(&text::write(&case)) == case);
    }
}

/// The comparison must be able to fail: a subject that gets one thing wrong is found out.
#[test]
fn a_wrong_register_flag_byte_or_exception_is_noticed() {
    let mut oracle = Oracle::start();
    let mut case = generate::single(Code::Nopd, &mut Rng::new(3)).unwrap();
    // add rax, rbx; mov [rsp], rax
    case.program = vec![vec![0x48, 0x01, 0xd8], vec![0x48, 0x89, 0x04, 0x24]];
    let native = oracle.run(&case).unwrap();
    assert_eq!(native.end, End::Reached);
    let differs = |change: fn(&mut Observation)| {
        let mut other = native.clone();
        change(&mut other);
        differences(&native, &other, Mask::default()).len()
    };
    assert_eq!(differs(|_| {}), 0);
    assert_eq!(differs(|o| o.registers.gpr[0] ^= 1), 1);
    assert_eq!(differs(|o| o.registers.rflags ^= 1), 1);
    assert_eq!(differs(|o| o.registers.xsave[160] ^= 1), 1);
    assert_eq!(differs(|o| o.registers.xsave[831] ^= 1), 1);
    assert_eq!(differs(|o| o.data[77] ^= 1), 1);
    assert_eq!(differs(|o| o.end = End::Exception { vector: 6, code: 0, cr2: 0 }), 1);
}

#[test]
fn the_oracle_outlives_a_child_that_dies() {
    let mut oracle = Oracle::start();
    let mut rng = Rng::new(5);
    let good = generate::single(Code::Nopd, &mut rng).unwrap();
    let mut endless = good.clone();
    endless.program = vec![vec![0xeb, 0xfe]];
    let mut calling = good.clone();
    calling.program = vec![vec![0x0f, 0x05]];
    oracle.submit(&[good.clone(), endless, calling, good]);
    let ends: Vec<_> = oracle.results().into_iter().map(|o| o.map(|o| o.end)).collect();
    assert_eq!(ends[0], Some(End::Reached));
    assert_eq!(ends[1], Some(End::Endless));
    assert_eq!(ends[3], Some(End::Reached));
}
