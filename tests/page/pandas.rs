//! `python3` with pandas, and what it says of a CSV file.
use std::path::Path;
use std::process::Command;

/// Reads the file as its documentation says, and objects to what is not tidy.
const SCRIPT: &str = r#"
import sys
import pandas

data = pandas.read_csv(sys.argv[1])
types = data.dtypes
assert types["value"] == "float64", types
assert types["valid"] == "bool", types
assert types["repetition"] == "int64", types
assert pandas.to_datetime(data["time"]).notna().all()
assert data["unit"].notna().all(), "rows without a unit"
for name in ["run", "workload", "metric"]:
    assert data[name].notna().all(), name
assert data[data["valid"]]["value"].notna().all(), "valid rows without a value"
assert (data["value"].notna() == (data["unit"] != "text")).all(), "a value in words, or words without"
measured = data[data["value"].notna()]
assert measured["mode"].notna().all(), "measured in no mode"
key = ["run", "workload", "metric", "mode", "repetition"]
twice = measured[measured.duplicated(key, keep=False)]
assert twice.empty, twice[key]
assert measured.groupby("metric")["unit"].nunique().max() == 1, "a metric in two units"
print("columns", ",".join(data.columns))
print("rows", len(data))
print("valid", int(data["valid"].sum()))
print("values", len(measured))
"#;

/// A Python that has pandas; why there is none is printed.
pub(crate) fn python() -> Option<&'static str> {
    // The package of a distribution belongs to its own Python, which need not be the first in PATH.
    let has = |python: &&str| {
        let told = Command::new(python).args(["-c", "import pandas"]).output();
        told.is_ok_and(|told| told.status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().find(has);
    if found.is_none() {
        println!("skipped: no python3 with pandas is installed");
    }
    found
}

/// What the script says of `csv`.
pub(crate) fn summary(python: &str, csv: &Path) -> String {
    let told = Command::new(python).args(["-c", SCRIPT]).arg(csv).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    String::from_utf8(told.stdout).unwrap()
}
