//! Networks, as the command line names them: `unix=PATH`, `pcap=FILE` or both.
use crate::host::net::NetSpec;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The network that `value` names.
pub(super) fn parse(value: &OsStr) -> Result<NetSpec, String> {
    let mut net = NetSpec::default();
    for part in value.as_bytes().split(|&b| b == b',') {
        let (place, name) = match (part.strip_prefix(b"unix="), part.strip_prefix(b"pcap=")) {
            (Some(name), _) => (&mut net.link, name),
            (_, Some(name)) => (&mut net.capture, name),
            _ => {
                let part = OsStr::from_bytes(part);
                return Err(format!("'{}' is neither unix=PATH nor pcap=FILE", part.display()));
            }
        };
        if name.is_empty() {
            return Err("no file is named; write unix=PATH, pcap=FILE or both with a comma between".into());
        }
        if place.replace(OsString::from_vec(name.to_vec()).into()).is_some() {
            return Err("a network has one link and one capture".into());
        }
    }
    Ok(net)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_network_is_a_link_a_capture_or_both() {
        let net = parse(OsStr::new("unix=/tmp/link,pcap=a.pcap")).unwrap();
        assert_eq!(net.link.as_deref(), Some(Path::new("/tmp/link")));
        assert_eq!(net.capture.as_deref(), Some(Path::new("a.pcap")));
        assert_eq!(parse(OsStr::new("pcap=x")).unwrap().link, None);
        for wrong in ["", "user", "unix=", "pcap=a,pcap=b", "unix=a,", "pcap"] {
            assert!(parse(OsStr::new(wrong)).is_err(), "{wrong}");
        }
    }
}
