//! No kick is lost, whenever it comes.
use super::rig::{CPU, Rig};
use crate::engine::Exit;
use iced_x86::code_asm::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Generous: it is only there so that a lost kick ends the test instead of hanging it.
const LOST: Duration = Duration::from_secs(60);
const KICKS: u32 = 1000;

fn spin(user: bool) -> Option<Rig> {
    Rig::flat(user, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.inc(rbx).unwrap();
        a.jmp(top).unwrap();
    })
}

#[test]
fn a_kick_before_the_run_is_remembered() {
    let Some(mut rig) = spin(true) else { return };
    rig.platform.kick(CPU).kick();
    assert_eq!(rig.run(), Exit::Kicked);
}

#[test]
fn kicks_at_random_times_each_bring_a_spinning_guest_out() {
    for user in [false, true] {
        let Some(mut rig) = spin(user) else { return };
        let cell = Arc::clone(rig.platform.kick(CPU));
        let answered = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&answered);
        let kicker = std::thread::spawn(move || {
            let mut random = 0x9e37_79b9_7f4a_7c15_u64;
            for sent in 0..KICKS {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let wait = Instant::now();
                // From none to 60 µs: around the entry, within it, and well inside the guest.
                while wait.elapsed() < Duration::from_nanos(random % 60_000) {
                    std::hint::spin_loop();
                }
                cell.kick();
                while seen.load(Ordering::SeqCst) <= sent {
                    if wait.elapsed() > LOST {
                        return sent;
                    }
                    std::thread::yield_now();
                }
            }
            KICKS
        });
        let _bound = rig.platform.kick(CPU).bind().unwrap();
        for _ in 0..KICKS {
            assert_eq!(rig.cpu.run(&rig.platform).unwrap(), Exit::Kicked);
            answered.fetch_add(1, Ordering::SeqCst);
        }
        assert_eq!(kicker.join().unwrap(), KICKS, "user {user}: a kick was lost");
    }
}
