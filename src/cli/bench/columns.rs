//! The columns of a run, from what was asked for.
use super::BenchArguments;
use crate::bench::measure::Column;
use crate::bench::plan::{self, Filter};
use crate::bench::side::Asked;
use crate::cli::error::CliError;
use crate::cli::pair;
use crate::engine::{Engine, Mode, Pair};
use crate::machine::{self, EmuEngine, Without};

/// The pairs that have columns though they are no modes: those that `--mode` names, or with `--pairs` all that can be.
fn further_pairs(asked: &Asked) -> Result<Vec<Pair>, CliError> {
    let mut pairs: Vec<Pair> = Vec::new();
    if asked.columns.pairs {
        pairs.extend(Pair::all().filter(|pair| pair.mode().is_none() && pair.objection().is_none()));
    }
    for pair in asked.modes.iter().filter_map(|mode| Pair::find(mode)) {
        pair::check(pair)?;
        if pair.mode().is_none() && !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    Ok(pairs)
}

/// Refuses modes that have no column, and options whose columns `--mode` leaves out.
pub(super) fn check_modes(
    arguments: &BenchArguments,
    asked: &Asked,
    columns: &[Column],
) -> Result<(), CliError> {
    for mode in &asked.modes {
        if !columns.iter().any(|c| plan::fits_mode(mode, &c.mode)) {
            let advice = missing_option(mode).unwrap_or_else(|| {
                let known: Vec<_> = columns.iter().map(|c| c.mode.as_str()).collect();
                format!("choose from {}, or a pair such as direct/none", known.join(", "))
            });
            return Err(CliError::Usage(format!("there is no mode '{mode}' here; {advice}")));
        }
    }
    let filter = Filter { modes: asked.modes.clone(), ..Filter::default() };
    let measured = |wanted: &dyn Fn(&Column) -> bool| {
        columns.iter().any(|column| wanted(column) && filter.wants_mode(&column.mode))
    };
    if !arguments.without.is_empty() && !measured(&|column| !column.without.is_nothing()) {
        return Err(CliError::Usage(
            "--without measures the translator of mode emu, which --mode leaves out; add emu to --mode"
                .to_owned(),
        ));
    }
    if arguments.peers && !measured(&|column| !column.peer.is_empty()) {
        return Err(CliError::Usage(
            "--peers measures QEMU, which --mode leaves out; add qemu-tcg or qemu-kvm to --mode".to_owned(),
        ));
    }
    Ok(())
}

/// The option that makes the column of this name, if there is one.
fn missing_option(mode: &str) -> Option<String> {
    if ["qemu-tcg", "qemu-kvm"].iter().any(|peer| plan::matches(mode, peer)) {
        return Some(format!("{mode} needs --peers"));
    }
    if let Some(named) = Pair::find(mode).and_then(Pair::mode) {
        return Some(format!("its name is {named}"));
    }
    let of_emu = mode.strip_prefix("emu/")?;
    if let Some(engine) = EmuEngine::find(of_emu) {
        return Some(format!("use --engine {}", engine.name()));
    }
    let without: Without = of_emu.strip_prefix("without-")?.parse().ok()?;
    Some(format!("use --without {without}"))
}

/// The engines of mode emu that have columns of their own, and the sets of techniques of which the translator has a column
/// without each.
fn of_emu(asked: &Asked) -> Result<(Vec<EmuEngine>, Vec<Without>), CliError> {
    // Those of a new run have been parsed before; those of a run that is gone on with were written by this program.
    let unknown = |name: &str| CliError::Usage(format!("the run asks for '{name}', which is unknown here"));
    let engines = asked.columns.engines.iter().map(|name| EmuEngine::find(name).ok_or_else(|| unknown(name)));
    let without = asked.columns.without.iter().map(|names| names.parse().map_err(|_| unknown(names)));
    Ok((engines.collect::<Result<_, _>>()?, without.collect::<Result<_, _>>()?))
}

/// The column of a pair, with KVM's label if it is that: absent with the reason, if this host has not the pair.
fn column(pair: Pair) -> (Column, Option<String>) {
    let column = Column::pair(pair);
    match machine::availability(pair) {
        Ok(caps) => (column, (pair.engine == Engine::Kvm).then_some(caps.label)),
        Err(error) => (Column { absent: Some(error.to_string()), ..column }, None),
    }
}

/// The columns of a run, and KVM's label: native, our modes and further pairs (absent ones with the reason), and the peers
/// if wanted.
pub(super) fn columns(asked: &Asked) -> Result<(Vec<Column>, String), CliError> {
    let (engines, without) = of_emu(asked)?;
    let pairs = further_pairs(asked)?;
    let ablated = || without.iter().copied().map(Column::ablated);
    let mut columns = vec![Column::native()];
    let mut kvm_label = "none".to_owned();
    for mode in Mode::ALL {
        if mode == Mode::Emu && !engines.is_empty() {
            // What is left out of the translator shows beside the full one.
            let named = |engine: &EmuEngine| {
                engines.contains(engine) || *engine == EmuEngine::Translator && !without.is_empty()
            };
            columns.extend(EmuEngine::ALL.into_iter().filter(named).map(Column::emu));
            columns.extend(ablated());
            continue;
        }
        let (column, label) = column(mode.pair());
        if let Some(label) = label {
            kvm_label = label;
        }
        columns.push(column);
        if mode == Mode::Emu {
            columns.extend(ablated());
        }
    }
    columns.extend(pairs.iter().map(|&pair| column(pair).0));
    if asked.columns.peers {
        let insisted = asked.modes.iter().any(|mode| mode == "qemu-kvm");
        columns.extend(Column::peers(&kvm_label, insisted));
    }
    Ok((columns, kvm_label))
}
