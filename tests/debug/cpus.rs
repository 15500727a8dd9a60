//! Guests with several CPUs.
use super::*;

/// The modes in which a guest can have two CPUs here.
fn modes_of_several_cpus() -> Vec<Mode> {
    modes().into_iter().filter(|mode| *mode != Mode::Pv).collect()
}

#[test]
fn each_cpu_is_listed_selected_stepped_and_stopped_at_breakpoints() {
    use small_guests::{COUNTS, SECOND_LOOP, two_cpus};
    let folder = tempfile::tempdir().unwrap();
    let (image, first_loop) = two_cpus(folder.path());
    for mode in modes_of_several_cpus() {
        let script = format!(
            "cpus\nbreak {SECOND_LOOP}\ncontinue\nregisters\ncpus\nx/1xw {COUNTS}\nstep 2\nx/1xw {COUNTS}\nregisters\n\
             cpu 0\nx/1xw {COUNTS}+8\nstep 30\nx/1xw {COUNTS}+8\nregisters\ncpu 2\ndelete\nwatch {COUNTS} 4\ncontinue\n\
             unwatch\nwatch {COUNTS}+8 4\ncontinue\nunwatch\ncpu 1\nbreak {first_loop}\nuntil {SECOND_LOOP}"
        );
        let all = answers_with(mode, &image, &script, &["--flat", "--cpus", "2"]);
        let what = format!("{mode}: {all:#?}");
        let cpu = |answer: &Value, number: usize| answer["data"]["cpus"][number].clone();
        assert_eq!(cpu(&all[0], 1)["activity"], "waits for start-up", "{what}");
        assert_eq!(
            (&cpu(&all[0], 0)["selected"], &cpu(&all[0], 0)["bits"]),
            (&true.into(), &32.into()),
            "{what}"
        );
        // The second CPU meets its breakpoint, in 16-bit code with a base of CS.
        let met = &all[2]["data"];
        assert_eq!((&met["cpu"], &met["stopped"]), (&1.into(), &"breakpoint".into()), "{what}");
        assert_eq!(number(&met["address"]), SECOND_LOOP, "{what}");
        assert!(all[2]["text"].as_str().unwrap().starts_with("CPU 1: breakpoint 1\n"), "{what}");
        assert_eq!(number(&register(&all[3], "rip")["value"]), SECOND_LOOP - small_guests::SECOND, "{what}");
        assert_eq!(
            (&cpu(&all[4], 1)["selected"], &cpu(&all[4], 1)["bits"]),
            (&true.into(), &16.into()),
            "{what}"
        );
        // The other stands while one steps.
        assert_eq!(all[5]["text"], all[7]["text"], "{what}");
        assert_eq!(number(&register(&all[8], "rip")["value"]), 4 + 5 + 1, "{what}");
        assert_eq!(all[9]["data"]["cpu"], 0, "{what}");
        assert_eq!(all[10]["text"], all[12]["text"], "{what}");
        assert!(number(&register(&all[13], "rip")["value"]) >= small_guests::FLAT, "{what}");
        assert_eq!(all[14]["text"], "there is no CPU 2; the last one is 1", "{what}");
        // Whoever writes is told.
        for (answer, writer) in [(&all[17], 0), (&all[20], 1)] {
            let data = &answer["data"];
            assert_eq!((&data["cpu"], &data["stopped"]), (&writer.into(), &"watchpoint".into()), "{what}");
            assert!(data["watch"]["by"]["instruction"].as_str().unwrap().starts_with("inc"), "{what}");
        }
        // A temporary breakpoint is that of the selected CPU; the other one's are its own.
        assert_eq!(all[22]["data"]["cpu"], 1, "{what}");
        assert!(["done", "breakpoint"].contains(&all[24]["data"]["stopped"].as_str().unwrap()), "{what}");
    }
}

#[test]
fn no_cpus_meeting_is_lost_or_told_twice() {
    use small_guests::{COUNTS, SECOND_LOOP, two_cpus};
    let folder = tempfile::tempdir().unwrap();
    let (image, first_loop) = two_cpus(folder.path());
    for mode in modes_of_several_cpus() {
        let rounds = 40;
        let mut script = format!("break {first_loop}\nbreak {SECOND_LOOP}\n");
        for _ in 0..rounds {
            script.push_str(&format!("continue\nx/3xw {COUNTS}\n"));
        }
        let all = answers_with(mode, &image, &script, &["--flat", "--cpus", "2"]);
        let mut met = [None::<u64>; 2];
        for pair in all[2..].chunks(2) {
            let cpu = pair[0]["data"]["cpu"].as_u64().unwrap() as usize;
            let at = [first_loop, SECOND_LOOP][cpu];
            assert_eq!(number(&pair[0]["data"]["address"]), at, "{mode}: {pair:#?}");
            let text = pair[1]["text"].as_str().unwrap();
            let words: Vec<u64> = text
                .split_whitespace()
                .filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
                .collect();
            // The address may stand before the words.
            let words = &words[words.len() - 3..];
            let count = words[2 * cpu];
            if let Some(before) = met[cpu].replace(count) {
                assert_eq!(count, before + 1, "{mode}: CPU {cpu}: {all:#?}");
            }
        }
        assert!(met.iter().all(Option::is_some), "{mode}: both come by: {all:#?}");
    }
}
