//! The TLB and the trace's costs, in each mode.
use super::*;

#[test]
fn what_is_remembered_of_the_tables_is_shown_beside_them() {
    for mode in modes() {
        // A run without breakpoints is the mode's own; it stops behind its first character.
        let all = answers_with(
            mode,
            "hello",
            "tlb\ncatch exit port-write 0x3f8\ncontinue\ntlb\ntlb $rip\ntlb $rsp 1\ntlb 0x7fff00000000\ntlb 0x7fff00000000 4096",
            if mode == Mode::Emu { &["--host-clock"] } else { &[] },
        );
        let what = format!("{mode}: {all:#?}");
        assert_eq!(all[2]["data"]["stopped"], "caught", "{what}");
        let physical = number(&all[4]["data"]["walk"]["physical"]);
        assert_eq!(physical, number(&all[4]["data"]["walk"]["address"]), "{what}");
        if mode == Mode::Kvm {
            assert_eq!(
                (&all[3]["data"]["visible"], &all[3]["data"]["entries"]),
                (&false.into(), &serde_json::json!([]))
            );
            assert!(all[3]["text"].as_str().unwrap().contains("nobody can read either"), "{what}");
            continue;
        }
        assert_eq!(
            (&all[0]["data"]["visible"], &all[0]["data"]["stretches"]),
            (&true.into(), &0.into()),
            "{what}"
        );
        assert!(all[3]["data"]["stretches"].as_u64() > Some(0), "{what}");
        let store = if mode == Mode::Pv { "mirror" } else { "code" };
        let code = all[4]["data"]["entries"].as_array().unwrap();
        let code = code.iter().find(|e| e["store"] == store).unwrap_or_else(|| panic!("{what}"));
        assert!(code["rights"].as_str().unwrap().ends_with('x'), "{what}");
        assert_eq!(code["linear"], code["physical"], "the guests map memory to itself\n{what}");
        assert_eq!(all[4]["data"]["verdict"], "held, and the tables say the same", "{what}");
        let stack = &all[5]["data"];
        assert!(stack["entries"][0]["rights"].as_str().unwrap().starts_with("rw"), "{what}");
        assert!(stack["walk"].is_null() && stack["verdict"].is_null(), "{what}");
        assert_eq!(all[6]["data"]["verdict"], "not held: the next access walks the tables", "{what}");
        assert_eq!(all[7]["data"]["stretches"], 0, "{what}");
    }
}

#[test]
fn events_tell_what_they_cost_where_guest_code_was_left_for_them() {
    for mode in modes() {
        let clock: &[&str] = if mode == Mode::Emu { &["--host-clock"] } else { &[] };
        let all = answers_with(mode, "hello", "trace on\ncontinue\ntrace show 4096\ntrace costs", clock);
        let what = format!("{mode}: {:#?}", &all[1..]);
        let lines = all[2]["data"]["lines"].as_array().unwrap();
        let known: Vec<u64> = lines.iter().filter_map(|line| line["nanos"].as_u64()).collect();
        assert!(known.len() > 20 && known.iter().all(|&nanos| nanos > 0), "{what}");
        let row = |kind: &str| {
            let rows = all[3]["data"]["rows"].as_array().unwrap();
            rows.iter().find(|row| row["kind"] == kind).cloned().unwrap_or_else(|| panic!("{what}"))
        };
        let writes = row("port-write");
        let of_kind: Vec<u64> = lines
            .iter()
            .filter(|line| line["kind"] == "port-write")
            .filter_map(|line| line["nanos"].as_u64())
            .collect();
        assert_eq!(writes["timed"].as_u64(), Some(of_kind.len() as u64), "{what}");
        assert_eq!(writes["total"].as_u64(), Some(of_kind.iter().sum()), "{what}");
        let median = writes["median"].as_u64().unwrap();
        assert!(of_kind.iter().min() <= Some(&median) && Some(&median) <= of_kind.iter().max(), "{what}");
    }
    // The interpreter leaves no guest code: nothing is made up.
    let all = answers(Mode::Emu, "hello", "trace on\ncontinue\ntrace costs");
    let rows = all[2]["data"]["rows"].as_array().unwrap();
    assert!(
        !rows.is_empty() && rows.iter().all(|row| row["timed"] == 0 && row["median"].is_null()),
        "{all:#?}"
    );
    assert!(all[2]["text"].as_str().unwrap().contains("the cost is not known"), "{all:#?}");
}
