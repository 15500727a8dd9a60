//! The circumstances of a measurement, and a short hash of them in every row.
//!
//! A fingerprint has two halves, joined by a hyphen: what must be equal for two figures to stand side by side (host, guest
//! image, devices, clock, version), and what belongs to the column (mode, engine, options). Two rows are comparable if
//! the first halves are equal. Load and time are spelled out beside them but not hashed: they differ in every run, and
//! interleaving is what guards against them.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;

/// How the label begins of a KVM that emulates ring 0 instead of running it (`kvm_pvm`).
pub const EMULATED_SUPERVISOR: &str = "emulated supervisor";

/// Facts about the host that figures depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// CPU model as the kernel names it.
    pub cpu: String,
    /// CPUs that are online.
    pub cpus: String,
    /// Kernel release.
    pub kernel: String,
    /// KVM vendor module (`kvm_intel`, `kvm_amd`, `kvm_pvm`), or `none`.
    pub kvm_module: String,
    /// What KVM is here: `hardware`, `nested`, `emulated supervisor` or `none`.
    pub kvm_label: String,
    /// Frequency governor, or `none` if the host shows none.
    pub governor: String,
    /// The kernel's clock source.
    pub clock_source: String,
}

impl Host {
    /// Name of the fact that says what KVM is.
    pub const KVM_LABEL: &str = "kvm label";

    /// Reads the facts from `/proc` and `/sys`; what cannot be read becomes `unknown`, never an error.
    pub fn read(kvm_label: &str) -> Host {
        let file = |path: &str| std::fs::read_to_string(path).ok().map(|s| s.trim().to_owned());
        let unknown = || "unknown".to_owned();
        let cpuinfo = file("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo
            .lines()
            .find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, v)| v.trim().to_owned()));
        let module = ["kvm_intel", "kvm_amd", "kvm_pvm"]
            .into_iter()
            .find(|m| Path::new("/sys/module").join(m).exists());
        Host {
            cpu: cpu.unwrap_or_else(unknown),
            cpus: file("/sys/devices/system/cpu/online").unwrap_or_else(unknown),
            kernel: file("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
            kvm_module: module.unwrap_or("none").to_owned(),
            kvm_label: kvm_label.to_owned(),
            governor: file("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
                .unwrap_or_else(|| "none".to_owned()),
            clock_source: file("/sys/devices/system/clocksource/clocksource0/current_clocksource")
                .unwrap_or_else(unknown),
        }
    }

    /// What KVM is here without what was measured to find out, which differs a little each time: the label's first words.
    pub fn kvm_kind(&self) -> &str {
        self.kvm_label.split(':').next().unwrap_or_default()
    }

    /// The facts as pairs, for rows and pages.
    pub fn facts(&self) -> [(&'static str, &str); 7] {
        [
            ("cpu", &self.cpu),
            ("cpus", &self.cpus),
            ("kernel", &self.kernel),
            ("kvm module", &self.kvm_module),
            (Host::KVM_LABEL, &self.kvm_label),
            ("governor", &self.governor),
            ("clock source", &self.clock_source),
        ]
    }
}

/// The 1-minute load average now; `None` if the host does not say.
pub fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// All that a figure depends on beside the code of the workload itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The host.
    pub host: Host,
    /// SHA-256 of the guest image, in hexadecimal.
    pub image_sha256: String,
    /// The devices the machine has.
    pub devices: String,
    /// Where guest time comes from.
    pub guest_clock: String,
    /// Version of this program.
    pub version: String,
    /// Mode of the column.
    pub mode: String,
    /// Engine, interface, peer and options of the column.
    pub column: String,
}

impl Fingerprint {
    /// The short hash, `<what must be equal>-<the column>`: 12 and 6 hexadecimal digits.
    pub fn short(&self) -> String {
        let host = &self.host;
        let common = digest(&[
            &host.cpu,
            &host.cpus,
            &host.kernel,
            &host.kvm_module,
            host.kvm_kind(),
            &host.governor,
            &host.clock_source,
            &self.image_sha256,
            &self.devices,
            &self.guest_clock,
            &self.version,
        ]);
        let column = digest(&[&self.mode, &self.column]);
        format!("{}-{}", &common[..12], &column[..6])
    }
}

/// The half of a short fingerprint that must be equal for two rows to be comparable.
pub fn comparable_part(short: &str) -> &str {
    short.split('-').next().unwrap_or(short)
}

/// SHA-256 of the fields, each preceded by its length so that no two lists run together, in hexadecimal.
fn digest(fields: &[&str]) -> String {
    let mut hash = Sha256::new();
    for field in fields {
        hash.update((field.len() as u64).to_le_bytes());
        hash.update(field.as_bytes());
    }
    hex(&hash.finalize())
}

/// SHA-256 of a guest image, in hexadecimal.
pub fn image_digest(image: &[u8]) -> String {
    hex(&Sha256::digest(image))
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Fingerprint {
        Fingerprint {
            host: Host { cpu: "A".into(), ..Host::default() },
            image_sha256: image_digest(b"guest"),
            devices: "uart pic pit".into(),
            guest_clock: "real".into(),
            version: "0.1.0".into(),
            mode: "emu".into(),
            column: "emulator bare".into(),
        }
    }

    #[test]
    fn columns_are_comparable_hosts_are_not() {
        let emu = sample();
        let kvm = Fingerprint { mode: "kvm".into(), ..sample() };
        assert_ne!(emu.short(), kvm.short());
        assert_eq!(comparable_part(&emu.short()), comparable_part(&kvm.short()));
        let mut other = sample();
        other.host.cpu = "B".into();
        assert_ne!(comparable_part(&emu.short()), comparable_part(&other.short()));
        other = sample();
        other.host.kvm_label = "hardware: ring 0 at 99 % of native speed".into();
        let mut again = sample();
        again.host.kvm_label = "hardware: ring 0 at 98 % of native speed".into();
        assert_eq!(other.short(), again.short(), "what KVM is counts, not how the measurement of it went");
        other = Fingerprint { image_sha256: image_digest(b"another"), ..sample() };
        assert_ne!(comparable_part(&emu.short()), comparable_part(&other.short()));
    }

    #[test]
    fn fields_do_not_run_together() {
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
    }

    #[test]
    fn known_digest() {
        // FIPS 180-2, appendix B.1: SHA-256("abc").
        assert!(image_digest(b"abc").starts_with("ba7816bf8f01cfea"));
    }

    #[test]
    fn this_host_can_be_read() {
        let host = Host::read("none");
        assert!(host.facts().iter().all(|(_, v)| !v.is_empty()));
    }
}
