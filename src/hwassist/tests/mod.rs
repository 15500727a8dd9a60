//! Small guests on the real /dev/kvm. Without one, each test says so and passes.
mod accesses;
mod interrupts;
mod kicks;
mod rig;
mod states;
