//! Points of sweeps, joined to series: one thing at growing sizes.

use super::super::language::{Language, figures as words};
use super::super::sweep::Point;
use super::{Dataset, Measure, Nature};

/// One thing measured at several sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Series<'a> {
    /// The workload.
    pub workload: &'a str,
    /// Short name, unique among the series.
    pub label: String,
    /// What the sizes count, in the plural.
    pub what: String,
    /// Size and measure of each point, by size.
    pub points: Vec<(u64, &'a Measure)>,
    base: String,
    rest: String,
}

impl Series<'_> {
    /// `rep_outs, 1 to 4096 bytes`.
    pub fn title(&self, language: Language) -> String {
        let size = |point: Option<&(u64, &Measure)>| point.map_or(0, |(size, _)| *size);
        let [least, most] = [self.points.first(), self.points.last()].map(|point| size(point).to_string());
        let values = [("name", &*self.label), ("least", &least), ("most", &most), ("what", &self.what)];
        words::SWEEPS_TITLE.with(language, &values)
    }

    /// Size and median time in nanoseconds of the least and of the greatest point that have a figure in a mode.
    pub fn ends(&self, mode: &str) -> Option<[(u64, f64); 2]> {
        let figures =
            || self.points.iter().filter_map(|(size, point)| Some((*size, point.cell(mode)?.time?.mid)));
        Some([figures().next()?, figures().next_back()?])
    }
}

impl Dataset {
    /// The series of all sweeps, in the order of workloads and metrics.
    pub fn series(&self) -> Vec<Series<'_>> {
        let mut all: Vec<Series<'_>> = Vec::new();
        for measure in self.of(Nature::Point) {
            let Some(Point { base, size, rest }) = Point::parse(&measure.metric) else { continue };
            let same = all.iter_mut().find(|s| {
                s.workload == measure.workload && s.base == base && s.what == size.what && s.rest == rest
            });
            match same {
                Some(series) => series.points.push((size.count, measure)),
                None => all.push(Series {
                    workload: &measure.workload,
                    label: String::new(),
                    what: size.what,
                    points: vec![(size.count, measure)],
                    base,
                    rest,
                }),
            }
        }
        for at in 0..all.len() {
            all[at].points.sort_by_key(|(size, _)| *size);
            let is_alone = all.iter().filter(|s| s.base == all[at].base).count() == 1;
            let Series { workload, base, rest, .. } = &all[at];
            all[at].label = if is_alone { base.clone() } else { format!("{workload} {base}{rest}") };
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::record;
    use super::super::tests::row;
    use super::*;

    #[test]
    fn points_are_joined_by_all_but_their_size_and_ordered_by_it() {
        let mut rows = Vec::new();
        for (workload, metric, value) in [
            ("sweep_outs", "rep_outs[bytes=512]@ring0", 50.0),
            ("sweep_outs", "rep_outs[bytes=64]@ring0", 7.0),
            ("sweep_outs", "rep_outs[bytes=4096]@ring0", 400.0),
            ("sweep_outs", "rep_outs[words=64]@ring0", 9.0),
            ("sweep_pages", "storm[pages=1]@ring0", 3.0),
        ] {
            rows.push(row(workload, metric, record::UNIT_POINT, "emu", 1, value));
        }
        rows.push(row("disk", "read@ring0", record::UNIT_TASK, "emu", 1, 1.0));
        // A name without a size is no point, whatever its unit.
        rows.push(row("disk", "odd@ring0", record::UNIT_POINT, "emu", 1, 1.0));
        let data = Dataset::from_rows(&rows).unwrap();
        let all = data.series();
        let told: Vec<_> = all.iter().map(|s| (s.label.as_str(), s.points.len())).collect();
        let bytes = "sweep_outs rep_outs@ring0";
        assert_eq!(told, [(bytes, 3), (bytes, 1), ("storm", 1)]);
        assert_eq!(all[0].points.iter().map(|p| p.0).collect::<Vec<_>>(), [64, 512, 4096]);
        assert_eq!(all[0].title(Language::English), "sweep_outs rep_outs@ring0, 64 to 4096 bytes");
        assert_eq!(all[0].ends("emu"), Some([(64, 7.0), (4096, 400.0)]));
        assert_eq!(all[0].ends("pv"), None);
        assert_eq!(data.of(Nature::Task).count(), 1);
    }
}
