//! Memory that is watched.
use super::*;

#[test]
fn accesses_to_watched_memory_stop_the_guest_in_every_mode() {
    for mode in modes() {
        let all = answers(
            mode,
            "hello",
            "break workload_main\ncontinue\nstep 2\nwatch $rsp-8\nwatch $rsp+0x1000 65\nawatch $rsp-8 4\nrwatch $rsp 0\n\
             info break\ncontinue\nregisters\nunwatch 4\ndelete 1\nrwatch $rsp 1\ncontinue\nunwatch\ncontinue\n\
             unwatch 5\ninfo break",
        );
        let what = format!("{mode}: {all:#?}");
        assert_eq!((&all[3]["data"]["number"], &all[6]["ok"]), (&2.into(), &false.into()), "{what}");
        let points = all[7]["data"]["watchpoints"].as_array().unwrap();
        let kinds: Vec<_> =
            points.iter().map(|p| (p["kind"].as_str().unwrap(), p["length"].as_u64())).collect();
        assert_eq!(kinds, [("watch", Some(8)), ("watch", Some(65)), ("awatch", Some(4))], "{what}");
        // The first call stores its return address below the stack that the workload has made room for.
        let (hit, call) = (&all[8]["data"], &all[8]["data"]["watch"]["by"]);
        assert_eq!(hit["stopped"], "watchpoint", "{what}");
        assert!(call["symbol"].as_str().unwrap().starts_with("workload_main+"), "{what}");
        assert!(call["instruction"].as_str().unwrap().starts_with("call"), "{what}");
        assert!(!hit["symbol"].as_str().unwrap().contains('+'), "behind the call: {what}");
        let met = hit["watch"]["watchpoints"].as_array().unwrap();
        assert_eq!(
            met.iter().map(|m| m["number"].as_u64()).collect::<Vec<_>>(),
            [Some(2), Some(4)],
            "{what}"
        );
        assert_eq!((&met[0]["old"], &met[0]["at"]), (&"0x0".into(), &points[0]["at"]), "{what}");
        assert_eq!(number(&met[0]["new"]), number(&call["address"]) + 5, "{what}");
        assert_eq!(register(&all[9], "rsp")["value"], points[0]["at"], "{what}");
        // Then the return reads it.
        assert_eq!(all[13]["data"]["stopped"], "watchpoint", "{what}");
        let (read, by) = (&all[13]["data"]["watch"]["watchpoints"][0], &all[13]["data"]["watch"]["by"]);
        assert_eq!(read["old"], read["new"], "{what}");
        let text = all[13]["text"].as_str().unwrap();
        assert!(text.contains("\nvalue = 0x") && text.contains("\nread by 0x"), "{what}");
        assert_eq!(by["instruction"], "ret", "{what}");
        assert_eq!(all[15]["data"]["why"], "the guest switched off with status 0", "{what}");
        assert_eq!(
            (&all[16]["ok"], &all[17]["data"]["watchpoints"]),
            (&false.into(), &serde_json::json!([]))
        );
    }
}

#[test]
fn watchpoints_stay_where_the_guest_goes_on_in_another_mode_or_starts_again() {
    let modes = modes();
    for (from, to) in [(Mode::Pv, Mode::Kvm), (Mode::Kvm, Mode::Emu)] {
        if !modes.contains(&from) || !modes.contains(&to) {
            continue;
        }
        let script = format!(
            "until workload_main\nstep 2\nwatch $rsp-8\nmode {to}\ncontinue\nrestart\nuntil workload_main\ncontinue"
        );
        let all = answers(from, "hello", &script);
        for i in [4, 7] {
            assert_eq!(all[i]["data"]["stopped"], "watchpoint", "{from} to {to}: {all:#?}");
        }
    }
}

#[test]
fn the_guest_goes_back_to_conditional_breakpoints_and_accesses() {
    let all = answers(
        Mode::Emu,
        "hello",
        "until workload_main\nstep 2\nwatch $rsp-8\nawatch $rsp 4\ncontinue\nunwatch 1\ncontinue\nreverse-continue\n\
         unwatch\nbreak workload_main if $rsp == 0\nbreak guest_start if $rsp != 0\nreverse-continue\nreverse-continue",
    );
    let what = format!("{all:#?}");
    let access = &all[6]["data"]["watch"]["by"];
    assert!(all[7]["text"].as_str().unwrap().contains("about to be accessed by"), "{what}");
    assert_eq!(
        (&all[7]["data"]["watch"]["by"], &all[7]["data"]["address"]),
        (access, &access["address"]),
        "{what}"
    );
    assert_eq!(
        all[11]["data"]["breakpoints"],
        serde_json::json!([4]),
        "the other's condition did not hold: {what}"
    );
    assert_eq!(all[12]["data"]["stopped"], "beginning", "{what}");
}
