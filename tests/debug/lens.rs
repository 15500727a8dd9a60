//! The lens: one instruction and its fates, whoever runs the guest.
use super::*;

/// The fates by technique.
fn fate<'a>(answer: &'a Value, technique: &str) -> &'a Value {
    let fates = answer["data"]["fates"].as_array().unwrap();
    fates.iter().find(|fate| fate["technique"] == technique).unwrap()
}

/// The technique that executes the guest: in emu the interpreter, since the debugger counts time there.
fn live(mode: Mode) -> &'static str {
    match mode {
        Mode::Emu => "interpreter",
        Mode::Pv => "pv",
        Mode::Kvm => "kvm",
    }
}

#[test]
fn an_instruction_has_the_same_fates_in_every_mode() {
    let script = "lens\nuntil workload_main\nregisters\nlens\nlens pvh_start\nregisters\nlens 0x7fff00000000\nlens 1 2";
    let mut told: Vec<(Mode, Vec<Value>)> = Vec::new();
    for mode in modes() {
        let all = answers(mode, "hello", script);
        let what = format!("{mode}: {all:#?}");
        // The first instruction is 32-bit code without paging: nobody runs it natively.
        assert_eq!(all[0]["data"]["bits"], 32, "{what}");
        assert_eq!(fate(&all[0], "pv")["summary"], "left to the interpreter", "{what}");
        // Looking changes nothing.
        assert_eq!(all[2]["data"], all[5]["data"], "{what}");
        let (here, cli) = (&all[3], &all[4]);
        assert_eq!((&here["data"]["bits"], &here["data"]["ring"]), (&64.into(), &0.into()), "{what}");
        assert_eq!(here["data"]["symbol"], "workload_main", "{what}");
        assert_eq!(
            here["data"]["address"],
            all[1]["data"]["rip"].as_str().map_or(here["data"]["address"].clone(), Value::from)
        );
        for answer in [here, cli] {
            for one in answer["data"]["fates"].as_array().unwrap() {
                assert_eq!(one["live"] == true, one["technique"] == live(mode), "{what}");
            }
        }
        assert_eq!(cli["data"]["text"], "cli", "{what}");
        assert_eq!(fate(cli, "interpreter")["summary"], "family 'control'", "{what}");
        let thunk = fate(cli, "pv");
        assert_eq!(thunk["summary"], "thunk: done in the guest's process", "{what}");
        let parts: Vec<_> =
            thunk["pieces"].as_array().unwrap().iter().map(|p| p["part"].as_str().unwrap()).collect();
        assert_eq!(parts, ["replaced", "put", "thunk"], "{what}");
        assert!(thunk["pieces"][1]["lines"][0]["text"].as_str().unwrap().starts_with("jmp 0x60"), "{what}");
        let host = fate(cli, "translator")["pieces"].as_array().unwrap();
        assert!(host.iter().any(|piece| piece["part"] == "work"), "{what}");
        assert_eq!((&all[6]["ok"], &all[7]["ok"]), (&false.into(), &false.into()), "{what}");
        let sentence = all[6]["text"].as_str().unwrap();
        assert!(sentence.starts_with("there is no instruction at 0x7fff00000000"), "{sentence}");
        told.push((mode, all));
    }
    let (_, first) = &told[0];
    for (mode, all) in &told[1..] {
        for number in [3, 4] {
            for technique in ["interpreter", "translator", "pv", "kvm"] {
                for field in ["summary", "about", "pieces"] {
                    let of = |all: &[Value]| fate(&all[number], technique)[field].clone();
                    assert_eq!(of(all), of(first), "{mode}: {technique} {field}");
                }
            }
        }
    }
}

#[test]
fn what_the_run_has_counted_is_told() {
    for mode in modes() {
        let all = answers(
            mode,
            "hello",
            "trace on\nuntil workload_main\nstep 600\ntrace show 4096\ncontinue\nsites count\nlens pvh_start",
        );
        if mode == Mode::Pv {
            let site = &all[5]["data"]["sites"].as_array().unwrap()[0];
            let at = site["address"].as_str().unwrap();
            let script = format!("continue\nlens {at}\nsites count");
            let again = answers(mode, "hello", &script);
            let site =
                again[2]["data"]["sites"].as_array().unwrap().iter().find(|s| s["address"] == at).unwrap();
            let told = fate(&again[1], "pv");
            assert_eq!((&told["count"], &told["cost_ns"]), (&site["count"], &site["cost_ns"]), "{again:#?}");
            assert!(told["count"].as_u64().unwrap() > 0, "{again:#?}");
        }
        // Steps tell the trace where an event was.
        let lines = all[3]["data"]["lines"].as_array().unwrap();
        let write = lines.iter().find(|l| l["kind"] == "port-write" && l["rip"].is_string());
        let at = write.unwrap()["rip"].as_str().unwrap();
        let count = lines.iter().filter(|l| l["rip"] == at && l["kind"] == "port-write").count();
        let script = format!("trace on\nuntil workload_main\nstep 600\nlens {at}");
        let again = answers(mode, "hello", &script);
        assert_eq!(
            again[3]["data"]["events"],
            serde_json::json!([["port-write", count]]),
            "{mode}: {again:#?}"
        );
        let kvm = fate(&again[3], "kvm");
        assert_eq!(kvm["summary"], "exit: KVM_EXIT_IO", "{mode}: {again:#?}");
        assert!(kvm["missing"].as_str().unwrap().contains("bench --mode kvm port_out"), "{mode}: {again:#?}");
    }
}
