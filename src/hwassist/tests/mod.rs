//! Small guests on the real /dev/kvm. Without one, each test says so and passes.
mod accesses;
mod debugging;
mod interrupts;
mod kicks;
mod rescues;
mod rig;
mod states;
mod syscalls;
