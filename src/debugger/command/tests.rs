use super::*;
use proptest::prelude::*;

fn one(line: &str) -> Command {
    parse(line).unwrap().unwrap()
}

fn number(n: u64) -> Expression {
    Expression::number(n)
}

#[test]
fn abbreviations_and_counts() {
    assert_eq!(one("s"), Command::Step(1));
    assert_eq!(one("step 0x10"), Command::Step(16));
    assert_eq!(one("  N   2 "), Command::Next(2));
    assert_eq!(one("b *0x1000"), Command::Break { at: number(0x1000), condition: None });
    let condition = Some(Condition::parse("$rax == 1").unwrap());
    assert_eq!(one("b 0x1000 if $rax == 1"), Command::Break { at: number(0x1000), condition });
    assert!(matches!(one("catch exit port"), Command::Catch { .. }));
    let watch = |kind, length| Command::Watch { kind, at: number(0x1000), length };
    assert_eq!(one("watch 0x1000"), watch(WatchKind::Write, None));
    assert_eq!(one("awatch 0x1000 4"), watch(WatchKind::Access, Some(number(4))));
    assert_eq!((one("unwatch"), one("unwatch 2")), (Command::Unwatch(None), Command::Unwatch(Some(2))));
    assert_eq!(one("b"), Command::Breakpoints);
    assert_eq!(one("info b"), Command::Breakpoints);
    assert_eq!(one("i r all"), Command::Registers(Group::All));
    assert_eq!(one("r"), Command::Registers(Group::General));
    assert_eq!(one("r $RAX"), Command::Register("rax".into()));
    assert_eq!(one("delete 3"), Command::Delete(Some(3)));
    assert_eq!((one("mode"), one("mode pv")), (Command::Mode(None), Command::Mode(Some(Mode::Pv))));
    assert_eq!(parse(""), Ok(None));
    assert_eq!(parse("# a comment"), Ok(None));
}

#[test]
fn examine_takes_gdbs_letters_in_any_order() {
    let shape = |line| match one(line) {
        Command::Examine { shape, place } => (shape, place),
        other => panic!("{other:?}"),
    };
    let place = |space| Some(Place { space, address: number(0x1000) });
    let expected = Shape { count: 16, format: Format::Hex, unit: Unit::Byte };
    assert_eq!(shape("x/16xb 0x1000"), (Some(expected), place(Space::Virtual)));
    assert_eq!(shape("x /16bx phys 0x1000"), (Some(expected), place(Space::Physical)));
    assert_eq!(shape("x/i 0x1000").0.unwrap().format, Format::Instruction);
    assert_eq!(shape("x/2a 0x1000").0.unwrap().unit, Unit::Giant);
    assert_eq!(shape("x"), (None, None));
    assert_eq!(shape("x 0x1000"), (None, place(Space::Virtual)));
}

#[test]
fn memory_disassemble_and_set() {
    assert_eq!(
        one("memory phys 0x6000 64"),
        Command::Memory {
            place: Place { space: Space::Physical, address: number(0x6000) },
            length: number(64)
        }
    );
    assert_eq!(one("dis 5"), Command::Disassemble { at: None, count: 5 });
    assert_eq!(one("dis 0x1000 5"), Command::Disassemble { at: Some(number(0x1000)), count: 5 });
    assert_eq!(one("set $rax = 5"), Command::Set { register: "rax".into(), value: number(5) });
    assert_eq!(one("set RAX 5"), Command::Set { register: "rax".into(), value: number(5) });
    assert_eq!(one("trace show 5"), Command::Trace(TraceRequest::Show(5)));
}

#[test]
fn mistakes_are_answered_with_the_syntax() {
    let error = |line| parse(line).unwrap_err().to_string();
    assert_eq!(error("frobnicate"), "there is no command 'frobnicate'; 'help' lists them");
    assert!(error("st").contains("step or stats"), "{}", error("st"));
    assert_eq!(error("step 0"), "'0' is not a count; the syntax is 'step [N]', for instance 'step 3'");
    assert!(error("break 1 2").starts_with("'2' is too much"));
    assert!(error("break 1 if").starts_with("'if' is too much"));
    assert!(error("break 1 if ").starts_with("'if' is too much"));
    assert!(error("break 1 if $rax = 2").starts_with("'= 2' is no comparison"));
    assert!(error("x/4z 0").starts_with("'z' is neither a format nor a size"));
    assert!(error("walk").starts_with("an address is missing"));
    assert!(error("trace perhaps").starts_with("'perhaps' is neither"));
    assert!(error("set = 4").starts_with("a register's name"));
    assert!(error("mode xen").starts_with("'xen' is no mode"));
}

proptest! {
    #[test]
    fn no_line_panics(line in "\\PC{0,60}") {
        let _either = parse(&line);
    }

    #[test]
    fn no_arguments_panic(verb in 0..catalogue::ROWS.len(), rest in "[ /$*'=a-z0-9é+-]{0,24}") {
        let _either = parse(&format!("{}{rest}", catalogue::ROWS[verb].name));
    }
}
