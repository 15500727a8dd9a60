//! Headless Chromium, and what it finds on a page of a given width.
//!
//! The page is put into a frame of that width, because a headless window cannot be as narrow as a phone, with a script that
//! looks it over and hands its findings to the frame's parent, whose text is then read.
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What stands where findings go before any came.
const NOTHING: &str = "nothing came";

const CHECKS: &str = include_str!("checks.js");

/// What the browser says it prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Light,
    Dark,
}

/// A Chromium that is installed.
pub(crate) struct Browser {
    program: &'static str,
    axe: Option<String>,
}

impl Browser {
    /// Finds one; why there is none is printed.
    pub(crate) fn find() -> Option<Self> {
        let runs = |program: &&str| {
            Command::new(program).arg("--version").output().is_ok_and(|told| told.status.success())
        };
        let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(runs);
        let Some(program) = found else {
            println!("skipped: Chromium is not installed");
            return None;
        };
        let axe = std::env::var_os("TRIVISOR_AXE")
            .map(|path| std::fs::read_to_string(PathBuf::from(path)).unwrap());
        Some(Self { program, axe })
    }

    /// What is wrong with `page` in a window `width` pixels wide, a sentence each.
    pub(crate) fn findings(&self, page: &str, width: u32, scheme: Scheme) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let axe = self.axe.as_deref().unwrap_or_default();
        let dark = scheme == Scheme::Dark;
        // The page forbids scripts; the checks need their own, and still see all that it tries to load.
        let policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
                      style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'\">";
        let scripts =
            format!("{policy}<script>{axe}</script><script>const DARK = {dark};\n{CHECKS}</script>");
        let checked = match page.find("<meta http-equiv=\"Content-Security-Policy\"") {
            Some(at) => {
                let end = at + page[at..].find('>').unwrap() + 1;
                format!("{}{scripts}{}", &page[..at], &page[end..])
            }
            None => page.replacen("<head>", &format!("<head>{scripts}"), 1),
        };
        std::fs::write(dir.path().join("page.html"), checked).unwrap();
        let frame = format!(
            "<!DOCTYPE html><meta charset=\"utf-8\"><pre id=\"found\">{NOTHING}</pre>\
             <script>onmessage = event => document.getElementById('found').textContent = event.data</script>\
             <iframe src=\"page.html\" style=\"border:0;width:{width}px;height:800px\"></iframe>"
        );
        let file = dir.path().join("frame.html");
        std::fs::write(&file, frame).unwrap();
        let mut browser = Command::new("timeout");
        browser
            .args(["--signal=KILL", "120"])
            .arg(self.program)
            // The pages are our own; a container's root has no sandbox to offer.
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--hide-scrollbars", "--dump-dom"])
            .args(["--virtual-time-budget=20000", "--window-size=1600,900"])
            .arg(format!("--blink-settings=preferredColorScheme={}", u8::from(!dark)))
            .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
            .arg(format!("file://{}", file.display()))
            .stdin(Stdio::null());
        // On a busy host it may not come so far.
        let mut said = String::new();
        let found = (0..3).find_map(|_| {
            let told = browser.output().unwrap();
            let dom = String::from_utf8_lossy(&told.stdout).into_owned();
            said = format!("{dom}\n{}", String::from_utf8_lossy(&told.stderr));
            let (found, _) = dom.split_once("<pre id=\"found\">")?.1.split_once("</pre>")?;
            (found != NOTHING).then(|| found.to_owned())
        });
        let found = found.unwrap_or_else(|| panic!("{said}"));
        found.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }
}
