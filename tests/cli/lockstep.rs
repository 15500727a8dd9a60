//! `trivisor lockstep`: what it says of guests on which both agree, and of mistakes.
use crate::program::{modes, trivisor};
use serde_json::Value;
use trivisor::engine::Mode;

#[test]
fn a_guest_on_which_both_agree_is_run_to_its_end() {
    let told = trivisor(&["lockstep", "hello"]);
    assert_eq!(told.status, Some(0), "{told:?}");
    assert!(told.out.contains("agree after") && told.out.contains("the guest has ended"), "{told:?}");
    let told = trivisor(&["lockstep", "--json", "--blocks", "1k", "quicksort"]);
    let verdict: Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!((told.status, &verdict["difference"]), (Some(0), &Value::Null), "{told:?}");
    assert_eq!((verdict["blocks"].as_u64(), &verdict["ended"]), (Some(1000), &Value::Bool(false)));
}

#[test]
fn a_mistake_is_named_to_the_instruction() {
    let told = trivisor(&["lockstep", "--json", "--break", "flag", "quicksort"]);
    assert_eq!(told.status, Some(1), "{told:?}");
    let verdict: Value = serde_json::from_str(&told.out).unwrap();
    let found = &verdict["difference"];
    assert!(found["text"].as_str().unwrap().starts_with("inc "), "{told:?}");
    let flags = found["state"].as_array().unwrap();
    let bits = |side: &str| {
        let word = flags[0][side].as_str().unwrap().trim_start_matches("0x");
        u64::from_str_radix(word, 16).unwrap()
    };
    assert_eq!((flags.len(), &flags[0]["name"]), (1, &Value::from("rflags")), "{told:?}");
    assert_eq!(bits("single") ^ bits("translator"), 1, "the carry alone");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    for (arguments, part) in [
        (&["lockstep", "--cpus", "2", "hello"][..], "--cpus"),
        (&["lockstep", "--break", "all", "hello"], "flag"),
        (&["lockstep", "--blocks", "many", "hello"], "20k"),
        (&["lockstep", "--modes", "single", "hello"], "emu, pv or kvm"),
        (&["lockstep", "--modes", "xen", "hello"], "pv"),
        (&["lockstep", "--modes", "pv", "--break", "flag", "hello"], "--modes has to name emu"),
    ] {
        let told = trivisor(arguments);
        assert_eq!(told.status, Some(2), "{told:?}");
        assert!(told.err.contains(part), "{told:?}");
    }
}

#[test]
fn each_mode_is_compared_with_the_interpreter() {
    let mut names = vec!["translator"];
    names.extend(modes().into_iter().filter(|mode| *mode != Mode::Emu).map(Mode::name));
    let given = names.iter().map(|name| if *name == "translator" { "emu" } else { name });
    let given = given.collect::<Vec<_>>().join(",");
    let told = trivisor(&["lockstep", "--json", "--modes", &given, "hello"]);
    assert_eq!(told.status, Some(0), "{told:?}");
    let verdicts: Vec<Value> = told.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(verdicts.len(), names.len(), "{told:?}");
    for (verdict, name) in verdicts.iter().zip(&names) {
        assert_eq!(
            (&verdict["executor"], &verdict["ended"]),
            (&Value::from(*name), &Value::Bool(true)),
            "{told:?}"
        );
        assert_eq!((&verdict["difference"], &verdict["unequal"]), (&Value::Null, &Value::Null), "{told:?}");
        // The same guest, whoever executes it.
        assert_eq!(verdict["instructions"], verdicts[0]["instructions"], "{told:?}");
    }
    // One that differs is enough, wherever it is named.
    let told = trivisor(&["lockstep", "--break", "flag", "--modes", &given, "hello"]);
    assert_eq!(told.status, Some(1), "{told:?}");
}
