use super::*;

fn page(page: u64, gpa: u64) -> Fill {
    Fill {
        page,
        gpa,
        host: 0x7000_0000_0000 + gpa as usize,
        write: true,
        code: false,
        global: false,
        size: PAGE_SIZE,
    }
}

#[test]
fn a_hit_needs_the_bank_the_right_and_one_page() {
    let mut tlb = Tlb::default();
    tlb.fill(Bank::User, &Fill { write: false, ..page(0x5000, 0x9000) });
    assert_eq!(tlb.read(Bank::User, 0x5ff8, 8), Some(0x7000_0000_9ff8));
    assert_eq!(tlb.read(Bank::User, 0x5ff9, 8), None, "leaves the page");
    assert_eq!(tlb.read(Bank::Supervisor, 0x5000, 1), None);
    assert_eq!(tlb.write(Bank::User, 0x5000, 1), None);
    assert_eq!(tlb.read(Bank::User, 0x5000 + 1024 * PAGE_SIZE, 1), None);
    assert_eq!(tlb.read(Bank::User, u64::MAX, 8), None);
    tlb.fill(Bank::UserAligned, &page(0x5000, 0x9000));
    assert_eq!(tlb.read(Bank::UserAligned, 0x5000, 1), None);
}

#[test]
fn pages_with_code_are_written_the_slow_way() {
    let mut tlb = Tlb::default();
    tlb.fill(Bank::Supervisor, &page(0x5000, 0x9000));
    tlb.fill(Bank::User, &page(0x6000, 0x9000));
    tlb.protect(0x9000);
    assert_eq!(tlb.write(Bank::Supervisor, 0x5010, 4), None);
    assert_eq!(tlb.write(Bank::User, 0x6010, 4), None, "by any alias");
    assert_eq!(tlb.code_write(Bank::User, 0x6010), Some((0x7000_0000_9010, 0x9010)));
    tlb.unprotect(Bank::User, 0x6010);
    assert!(tlb.write(Bank::User, 0x6010, 4).is_some());
}

#[test]
fn device_pages_are_known_for_their_use_until_they_are_forgotten() {
    let mut tlb = Tlb::default();
    tlb.fill_device(Bank::Supervisor, 0x5000, 0xfee0_0000, false);
    assert_eq!(tlb.device(Bank::Supervisor, 0x5030, false), Some(0xfee0_0030));
    assert_eq!(tlb.device(Bank::Supervisor, 0x5030, true), None);
    assert_eq!(tlb.device(Bank::User, 0x5030, false), None);
    tlb.flush_page(0x7000);
    assert!(tlb.device(Bank::Supervisor, 0x5030, false).is_some());
    tlb.flush_page(0x5fff);
    assert_eq!(tlb.device(Bank::Supervisor, 0x5030, false), None);
    tlb.fill_device(Bank::Supervisor, 0x5000, 0xfee0_0000, false);
    tlb.load_space(0, false);
    assert_eq!(tlb.device(Bank::Supervisor, 0x5030, false), None);
}

#[test]
fn single_pages_are_listed_until_there_are_too_many() {
    let mut tlb = Tlb::default();
    let generation = tlb.generation;
    for page in 0..MOST_FORGOTTEN as u64 {
        tlb.flush_page(page * PAGE_SIZE + 5);
    }
    assert_eq!((tlb.generation, tlb.forgotten.len()), (generation, MOST_FORGOTTEN));
    assert_eq!(tlb.forgotten[1], PAGE_SIZE);
    tlb.flush_page(0x9_9000);
    assert_ne!(tlb.generation, generation);
    assert!(tlb.forgotten.is_empty());
}

#[test]
fn flushing_a_page_forgets_code_only_where_code_was_fetched() {
    let mut tlb = Tlb::default();
    tlb.fill_code(Bank::User, 0x5000, 0x9000, false, PAGE_SIZE);
    let (data, code) = (tlb.generation, tlb.local_code());
    tlb.flush_page(0x6000);
    assert_eq!(tlb.local_code(), code);
    assert_eq!((tlb.generation, &tlb.forgotten[..]), (data, &[0x6000][..]));
    assert_eq!(tlb.fetch(Bank::User, 0x5010), Some((0x9010, false)));
    tlb.flush_page(0x5fff);
    assert_ne!(tlb.local_code(), code);
    assert_eq!(tlb.fetch(Bank::User, 0x5010), None);
    // A page that another one has taken the place of is not forgotten as one that was fetched.
    tlb.fill_code(Bank::User, 0x5000, 0x9000, false, PAGE_SIZE);
    tlb.fill_code(Bank::User, 0x5000 + CODE_ENTRIES as u64 * PAGE_SIZE, 0xa000, false, PAGE_SIZE);
    let code = tlb.local_code();
    tlb.flush_page(0x5000);
    assert_ne!(tlb.local_code(), code);
}

#[test]
fn flushes_keep_what_they_should() {
    let mut tlb = Tlb::default();
    tlb.fill(Bank::User, &page(0x5000, 0x9000));
    tlb.fill(Bank::User, &Fill { global: true, ..page(0x6000, 0xa000) });
    tlb.fill(Bank::Supervisor, &page(0x5000, 0x9000));
    tlb.fill(Bank::Supervisor, &Fill { global: true, ..page(0x6000, 0xa000) });
    let (all, local) = (tlb.generation, tlb.local_generation);
    tlb.load_space(0, false);
    assert_eq!(tlb.generation, all);
    assert_ne!(tlb.local_generation, local);
    assert_eq!(tlb.read(Bank::User, 0x5000, 1), None);
    assert_eq!(tlb.read(Bank::Supervisor, 0x5000, 1), None);
    assert!(tlb.read(Bank::Supervisor, 0x6000, 1).is_some());
    tlb.fill(Bank::User, &page(0x5000, 0x9000));
    tlb.flush_page(0x6fff);
    assert_eq!(tlb.read(Bank::Supervisor, 0x6000, 1), None);
    assert!(tlb.read(Bank::User, 0x5000, 1).is_some());
    tlb.fill(Bank::User, &Fill { size: 2 << 20, ..page(0x20_5000, 0x9000) });
    tlb.flush_page(0x3f_f000);
    assert_eq!(tlb.read(Bank::User, 0x20_5000, 1), None, "the same large page");
    tlb.fill(Bank::User, &page(0x5000, 0x9000));
    tlb.flush_all();
    assert_eq!(tlb.read(Bank::User, 0x5000, 1), None);
}

#[test]
fn a_space_that_is_kept_is_found_again_and_another_is_not_seen() {
    let mut tlb = Tlb::default();
    tlb.load_space(1, false);
    tlb.fill(Bank::User, &page(0x5000, 0x9000));
    tlb.fill_code(Bank::User, 0x7000, 0xb000, false, PAGE_SIZE);
    let code = tlb.local_code();
    tlb.load_space(2, false);
    assert_ne!(tlb.local_code(), code);
    assert_eq!((tlb.read(Bank::User, 0x5000, 1), tlb.fetch(Bank::User, 0x7000)), (None, None));
    tlb.fill(Bank::User, &page(0x5000, 0xa000));
    tlb.load_space(1, true);
    assert_eq!(tlb.read(Bank::User, 0x5000, 1), Some(0x7000_0000_9000));
    assert_eq!((tlb.local_code(), tlb.fetch(Bank::User, 0x7000)), (code, Some((0xb000, false))));
    tlb.load_space(2, false);
    assert_eq!(tlb.read(Bank::User, 0x5000, 1), None, "not kept");
    tlb.load_space(1, true);
    assert!(tlb.read(Bank::User, 0x5000, 1).is_some(), "only the space that was loaded");
}

#[test]
fn spaces_are_forgotten_one_by_one_and_all_together() {
    let filled = |forget: fn(&mut Tlb)| {
        let mut tlb = Tlb::default();
        for pcid in 1..4 {
            tlb.load_space(pcid, false);
            let global = pcid == 3;
            tlb.fill(Bank::User, &Fill { global, ..page(0x5000, 0x9000) });
            tlb.fill(Bank::User, &page(0x6000, 0xa000));
        }
        forget(&mut tlb);
        [1, 2, 3].map(|pcid| {
            tlb.load_space(pcid, true);
            [0x5000, 0x6000].map(|at| tlb.read(Bank::User, at, 1).is_some())
        })
    };
    let (all, none) = ([true; 2], [false; 2]);
    assert_eq!(filled(|_| ()), [all; 3]);
    assert_eq!(filled(|tlb| tlb.flush_space(2)), [all, none, all]);
    assert_eq!(filled(|tlb| tlb.flush_space(3)), [all, all, none]);
    assert_eq!(filled(|tlb| tlb.flush_space(9)), [all; 3]);
    assert_eq!(filled(Tlb::flush_spaces), [none; 3]);
    assert_eq!(filled(Tlb::flush_all), [none; 3]);
    assert_eq!(filled(|tlb| tlb.flush_page_of(3, 0x5fff)), [all, all, [false, true]]);
    let [_, second, _] = filled(|tlb| tlb.flush_page_of(2, 0x5fff));
    assert!(!second[0]);
    // A page that is global in one space is forgotten there by INVLPG in another.
    let elsewhere = filled(|tlb| {
        tlb.load_space(1, true);
        tlb.flush_page(0x5fff);
    });
    assert_eq!(elsewhere, [[false, true], all, [false, true]]);
}

#[test]
fn the_space_that_was_not_used_for_longest_makes_room() {
    let mut tlb = Tlb::default();
    for pcid in 1..=space::SPACES as u16 {
        tlb.load_space(pcid, false);
        tlb.fill(Bank::User, &page(0x5000, 0x9000));
    }
    tlb.load_space(1, true);
    tlb.load_space(100, true);
    assert_eq!(tlb.read(Bank::User, 0x5000, 1), None, "of a space that nothing is known of");
    tlb.load_space(1, true);
    assert!(tlb.read(Bank::User, 0x5000, 1).is_some());
    tlb.load_space(2, true);
    assert_eq!(tlb.read(Bank::User, 0x5000, 1), None);
}

#[test]
fn global_code_outlives_a_switch_and_no_invlpg_of_its_page() {
    let mut tlb = Tlb::default();
    tlb.fill_code(Bank::Supervisor, 0x5000, 0x9000, true, PAGE_SIZE);
    let (global, local) = (tlb.global_code(), tlb.local_code());
    tlb.load_space(7, false);
    assert_eq!((tlb.global_code(), tlb.fetch(Bank::Supervisor, 0x5000)), (global, Some((0x9000, true))));
    assert_ne!(tlb.local_code(), local);
    let local = tlb.local_code();
    tlb.flush_page(0x6000);
    assert_eq!((tlb.global_code(), tlb.local_code()), (global, local));
    tlb.flush_page(0x5000);
    assert!(tlb.global_code() != global && tlb.local_code() != local, "who knows all code knows global code");
    assert_eq!(tlb.fetch(Bank::Supervisor, 0x5000), None);
}

#[test]
fn stamps_whose_low_bits_come_again_renew_all_that_live() {
    let mut tlb = Tlb::default();
    tlb.load_space(1, false);
    tlb.load_space(2, false);
    let (eras, first) = (tlb.eras, tlb.local_code());
    tlb.near_the_end_of_an_era();
    let before = tlb.global_code();
    tlb.load_space(2, false);
    tlb.load_space(2, false);
    assert_eq!(tlb.eras, eras + 1);
    assert_ne!(tlb.global_code(), before);
    tlb.load_space(1, true);
    assert!(tlb.local_code() > first + 0xff_0000, "a space that was not touched has a stamp of the new era");
}
