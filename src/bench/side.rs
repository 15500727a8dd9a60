//! The side file of a run: what it was asked for and under which circumstances, beside its CSV.
//!
//! It is written before the first measurement, so that a run that is stopped, however that happens, can be gone on with:
//! the same request gives the same plan. A digest over its contents tells a file that somebody changed.

use super::error::BenchError;
use super::fingerprint::{self, Fingerprint, Host};
use super::record;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// Format of side files that this program writes. 0 stands for those from before they could be gone on with.
pub const FORMAT: u32 = 1;

/// What a run was asked for: all that its plan follows from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Patterns of workloads; empty for all that measure.
    pub workloads: Vec<String>,
    /// Patterns of modes; empty for all.
    pub modes: Vec<String>,
    /// What further columns there are.
    pub columns: FurtherColumns,
    /// Folder of the Linux guest, if it is measured; absolute.
    pub linux: Option<PathBuf>,
    /// Repetitions after the warm-up.
    pub repetitions: u32,
    /// Seed of the order of runs.
    pub seed: u64,
    /// How long a calibrated measurement should take, in microseconds.
    pub budget_us: u64,
    /// When one run is given up.
    pub timeout: Duration,
    /// When no further run is begun.
    pub deadline: Option<Duration>,
}

/// The columns beside native and the modes, as the command line names them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FurtherColumns {
    /// Engines of mode emu that have columns of their own.
    pub engines: Vec<String>,
    /// Sets of techniques that the translator goes without.
    pub without: Vec<String>,
    /// Whether all pairs of engine and interface that are no mode have one.
    pub pairs: bool,
    /// Whether the peers have one.
    pub peers: bool,
}

/// A cell that gets fewer repetitions than were asked for, to meet the deadline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The workload.
    pub workload: String,
    /// The column.
    pub mode: String,
    /// Repetitions that it gets.
    pub repetitions: u32,
}

/// The side file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SideFile {
    /// [`FORMAT`].
    pub format: u32,
    /// The run.
    pub run: String,
    /// SHA-256 of the executable file that began it: two builds of one version may differ in speed.
    pub program_sha256: String,
    /// What it was asked for.
    pub asked: Asked,
    /// Columns that could not run when it began, with the reason.
    pub absent: BTreeMap<String, String>,
    /// Cells with fewer repetitions; none before the warm-up has shown what each costs.
    pub cuts: Option<Vec<Cut>>,
    /// 1-minute load average when it began.
    pub load_at_start: Option<f64>,
    /// Options of the run in words, as pairs.
    pub options: BTreeMap<String, String>,
    /// Fingerprints by short hash.
    pub fingerprints: BTreeMap<String, Fingerprint>,
    /// Digest of all that stands above.
    pub digest: String,
}

/// Why a run that was stopped cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum Objection {
    /// There is no side file.
    #[error("its side file {0} is missing, which says what was to be measured")]
    NoSideFile(PathBuf),
    /// It is no side file, or nothing of it is left.
    #[error("{path} is no side file of trivisor")]
    NotASideFile {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// Written by an older or newer program.
    #[error("its side file is of format {0}, and this trivisor knows format {FORMAT}")]
    Format(u32),
    /// Somebody changed it.
    #[error("{0} was changed after trivisor had written it")]
    Edited(PathBuf),
    /// The CSV holds rows that the plan has not.
    #[error("its rows are not those of the run that its side file tells of")]
    OtherRows,
    /// Another program began it.
    #[error("{then} began it and this is {now}, so that old and new rows would not be comparable")]
    Program {
        /// The version that began it.
        then: String,
        /// This one.
        now: String,
    },
    /// The host differs.
    #[error(
        "the host is not as it was ({fact}: {then} then, {now} now), so that old and new rows would not be comparable"
    )]
    Host {
        /// What differs.
        fact: &'static str,
        /// What it was.
        then: String,
        /// What it is.
        now: String,
    },
    /// A guest image differs.
    #[error("the guest image of {0} is not as it was, so that old and new rows would not be comparable")]
    Image(String),
    /// A column differs.
    #[error(
        "{mode} is not as it was ({then} then, {now} now), so that old and new rows would not be comparable"
    )]
    Column {
        /// The column.
        mode: String,
        /// What it was.
        then: String,
        /// What it is.
        now: String,
    },
    /// A column could run when the run began and cannot now.
    #[error("{mode} could run when it began and cannot now ({reason})")]
    Gone {
        /// The column.
        mode: String,
        /// Why it cannot.
        reason: String,
    },
}

impl SideFile {
    /// The side file that belongs to the CSV file `csv`.
    pub fn path_for(csv: &Path) -> PathBuf {
        csv.with_extension("json")
    }

    /// Writes the side file beside `csv`, whole or not at all.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&mut self, csv: &Path) -> Result<(), BenchError> {
        let path = SideFile::path_for(csv);
        self.digest = self.contents_digest().map_err(|e| BenchError::io(&path, e.into()))?;
        let text = serde_json::to_string_pretty(self).map_err(|e| BenchError::io(&path, e.into()))?;
        record::replace_file(&path, text.as_bytes())
    }

    /// Removes the side file beside a CSV file that has come to nothing.
    pub fn discard(&self, csv: &Path) {
        // It need not exist.
        let _absent = std::fs::remove_file(SideFile::path_for(csv));
    }

    /// Reads the side file beside `csv`; `None` if there is none or it is not ours, since the CSV stands without it.
    pub fn load(csv: &Path) -> Option<SideFile> {
        serde_json::from_slice(&std::fs::read(SideFile::path_for(csv)).ok()?).ok()
    }

    /// Reads the side file beside `csv` to go on with its run: it must be there, whole, and as it was written.
    ///
    /// # Errors
    /// [`BenchError::Resume`] if it is not; [`BenchError::Io`] if it cannot be read.
    pub fn load_to_resume(csv: &Path) -> Result<SideFile, BenchError> {
        let refuse = |objection| BenchError::Resume { csv: csv.to_owned(), objection };
        let path = SideFile::path_for(csv);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(refuse(Objection::NoSideFile(path)));
            }
            Err(error) => return Err(BenchError::io(path, error)),
        };
        let side: SideFile = serde_json::from_slice(&text)
            .map_err(|source| refuse(Objection::NotASideFile { path: path.clone(), source }))?;
        if side.format != FORMAT {
            return Err(refuse(Objection::Format(side.format)));
        }
        match side.contents_digest() {
            Ok(digest) if digest == side.digest => Ok(side),
            _ => Err(refuse(Objection::Edited(path))),
        }
    }

    /// Why rows measured now, under the circumstances `now`, cannot stand beside those of this run; the names of workloads
    /// by the digest of their image are for messages.
    ///
    /// # Errors
    /// The first difference.
    pub fn compare(
        &self,
        now: &BTreeMap<String, Fingerprint>,
        name_of: impl Fn(&str) -> String,
    ) -> Result<(), Objection> {
        let then = &self.fingerprints;
        if let (Some(old), Some(new)) = (then.values().next(), now.values().next()) {
            if old.version != new.version || self.program_sha256 != program_sha256() {
                let (then, now) = if old.version == new.version {
                    (format!("another build of trivisor {}", old.version), "this build".to_owned())
                } else {
                    (format!("trivisor {}", old.version), format!("trivisor {}", new.version))
                };
                return Err(Objection::Program { then, now });
            }
            if let Some((fact, then, now)) = difference(&old.host, &new.host) {
                return Err(Objection::Host { fact, then, now });
            }
        }
        let another = now.iter().find(|(short, _)| !then.contains_key(*short));
        if let Some((_, new)) = another {
            let column = then.values().find(|old| old.mode == new.mode && old.column != new.column);
            return Err(match column {
                Some(old) => Objection::Column {
                    mode: new.mode.clone(),
                    then: old.column.clone(),
                    now: new.column.clone(),
                },
                None => Objection::Image(name_of(&new.image_sha256)),
            });
        }
        if then.len() == now.len() { Ok(()) } else { Err(Objection::OtherRows) }
    }

    /// Digest of all but the digest itself.
    fn contents_digest(&self) -> Result<String, serde_json::Error> {
        let bare = SideFile { digest: String::new(), ..self.clone() };
        Ok(fingerprint::hex(&Sha256::digest(serde_json::to_vec(&bare)?)))
    }
}

/// The first fact in which two hosts differ, with both values. What was measured of KVM differs a little each time.
fn difference(then: &Host, now: &Host) -> Option<(&'static str, String, String)> {
    if then.kvm_kind() != now.kvm_kind() {
        return Some(("KVM", then.kvm_kind().to_owned(), now.kvm_kind().to_owned()));
    }
    let pairs = then.facts().into_iter().zip(now.facts());
    pairs
        .filter(|((fact, then), (_, now))| then != now && *fact != Host::KVM_LABEL)
        .map(|((fact, then), (_, now))| (fact, then.to_owned(), now.to_owned()))
        .next()
}

/// SHA-256 of the executable file of this process; `unknown` where it cannot be read.
pub fn program_sha256() -> &'static str {
    static DIGEST: OnceLock<String> = OnceLock::new();
    DIGEST.get_or_init(|| {
        let digest = || -> std::io::Result<String> {
            let mut hash = Sha256::new();
            std::io::copy(&mut std::fs::File::open("/proc/self/exe")?, &mut hash)?;
            Ok(fingerprint::hex(&hash.finalize()))
        };
        digest().unwrap_or_else(|_| "unknown".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(mode: &str, image: &str) -> Fingerprint {
        Fingerprint {
            host: Host { cpu: "A".into(), kvm_label: "none".into(), ..Host::default() },
            image_sha256: image.into(),
            devices: "uart".into(),
            guest_clock: "real".into(),
            version: "1".into(),
            mode: mode.into(),
            column: format!("engine of {mode}"),
        }
    }

    fn prints(of: &[Fingerprint]) -> BTreeMap<String, Fingerprint> {
        of.iter().map(|f| (f.short(), f.clone())).collect()
    }

    fn side() -> SideFile {
        SideFile {
            format: FORMAT,
            run: "r".into(),
            program_sha256: program_sha256().into(),
            load_at_start: Some(0.25),
            fingerprints: prints(&[fingerprint("emu", "i"), fingerprint("pv", "i")]),
            ..SideFile::default()
        }
    }

    #[test]
    fn it_comes_back_and_a_change_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let csv = dir.path().join("r.csv");
        let told = || SideFile::load_to_resume(&csv).unwrap_err().to_string();
        assert!(told().contains("r.json is missing"), "{}", told());
        let mut side = side();
        side.save(&csv).unwrap();
        assert_eq!(SideFile::load(&csv), Some(side.clone()));
        assert_eq!(SideFile::load_to_resume(&csv).unwrap(), side);
        let text = std::fs::read_to_string(SideFile::path_for(&csv)).unwrap();
        let write = |text: &str| std::fs::write(SideFile::path_for(&csv), text).unwrap();
        write(&text.replace("0.25", "0.35"));
        assert!(told().contains("was changed"), "{}", told());
        write(&text.replace("\"format\": 1", "\"format\": 2"));
        assert!(told().contains("format 2"), "{}", told());
        write(&text[..text.len() / 2]);
        assert!(told().contains("no side file"), "{}", told());
        assert_eq!(SideFile::load(&csv), None);
    }

    #[test]
    fn a_side_file_from_before_resuming_is_still_read_for_the_page() {
        let dir = tempfile::tempdir().unwrap();
        let csv = dir.path().join("r.csv");
        let old = r#"{"run": "r", "load_at_start": null, "options": {"seed": "1"}, "fingerprints": {}}"#;
        std::fs::write(SideFile::path_for(&csv), old).unwrap();
        assert_eq!(SideFile::load(&csv).unwrap().options["seed"], "1");
        assert!(SideFile::load_to_resume(&csv).unwrap_err().to_string().contains("format 0"));
    }

    #[test]
    fn what_differs_is_named() {
        let told = |side: &SideFile, now: &[Fingerprint]| {
            side.compare(&prints(now), |image| format!("<{image}>")).map_err(|e| e.to_string())
        };
        let (emu, pv) = (fingerprint("emu", "i"), fingerprint("pv", "i"));
        assert_eq!(told(&side(), &[emu.clone(), pv.clone()]), Ok(()));
        let mut other = [emu.clone(), pv.clone()];
        other.iter_mut().for_each(|f| f.host.cpu = "B".into());
        assert!(told(&side(), &other).unwrap_err().contains("(cpu: A then, B now)"));
        let mut other = [emu.clone(), pv.clone()];
        other.iter_mut().for_each(|f| f.version = "2".into());
        assert!(told(&side(), &other).unwrap_err().contains("trivisor 1 began it and this is trivisor 2"));
        let other = [emu.clone(), fingerprint("pv", "j")];
        assert!(told(&side(), &other).unwrap_err().contains("guest image of <j>"));
        let other = [emu.clone(), Fingerprint { column: "new".into(), ..pv.clone() }];
        assert!(
            told(&side(), &other).unwrap_err().contains("pv is not as it was (engine of pv then, new now)")
        );
        assert!(told(&side(), std::slice::from_ref(&emu)).is_err(), "a column is missing");
        let rebuilt = SideFile { program_sha256: "x".into(), ..side() };
        assert!(told(&rebuilt, &[emu, pv]).unwrap_err().contains("another build of trivisor 1"));
    }
}
