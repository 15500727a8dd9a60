//! A file of frames in the format of libpcap ("PCAP Capture File Format", draft-ietf-opsawg-pcap), which Wireshark and
//! tcpdump read.
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Magic number: times are in microseconds.
const MAGIC: u32 = 0xa1b2_c3d4;
/// Version 2.4.
const VERSION: [u16; 2] = [2, 4];
/// The most bytes of a frame.
const SNAP_LENGTH: u32 = 65535;
/// Frames are Ethernet's.
const ETHERNET: u32 = 1;

/// The file. One that cannot be written any more stays as it is.
#[derive(Debug)]
pub struct Capture {
    file: Option<File>,
}

impl Capture {
    /// Makes the file, without frames.
    ///
    /// # Errors
    /// What the host says.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = File::create(path)?;
        let mut header = MAGIC.to_le_bytes().to_vec();
        header.extend(VERSION.map(u16::to_le_bytes).concat());
        // Time zone and accuracy, which nobody uses.
        header.extend([0; 8]);
        header.extend(SNAP_LENGTH.to_le_bytes());
        header.extend(ETHERNET.to_le_bytes());
        file.write_all(&header)?;
        Ok(Self { file: Some(file) })
    }

    /// Appends a frame that passes now.
    pub fn note(&mut self, frame: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let length = frame.len() as u32;
        let words = [now.as_secs() as u32, now.subsec_micros(), length, length];
        let mut record = words.map(u32::to_le_bytes).concat();
        record.extend(frame);
        // One write for each: what is there of a file that fills the disk is whole but for its last frame.
        if file.write_all(&record).is_err() {
            self.file = None;
        }
    }
}
