//! What this host has, for tests that run guests in every mode.
use trivisor::engine::Mode;
use trivisor::machine;

/// The modes of this host; why the others are skipped is printed.
pub(crate) fn modes() -> Vec<Mode> {
    let available = |mode: &Mode| match machine::availability(*mode) {
        Ok(_) => true,
        Err(error) => {
            println!("skipped: {error}");
            false
        }
    };
    Mode::ALL.into_iter().filter(available).collect()
}
