//! From the flags of `sensora agent` to the sources they mean.

use sensora_node::agent::source::{CsvSpec, ExecSpec, HostSpec, SimSpec, SourceSpec, StdinSpec};

use crate::args::AgentArgs;
use crate::failure::{Failure, Outcome};

/// The sources that the flags name, with the name each is given; empty where they name none.
pub(super) fn of(args: &AgentArgs) -> Outcome<Vec<(Option<String>, SourceSpec)>> {
    let mut sources = Vec::new();
    let is_only = !(args.csv.is_some() || args.exec.is_some() || args.stdin || args.sim);
    if args.host {
        let mut spec = HostSpec::default();
        if let Some(interval) = interval_ms(args)? {
            spec.interval_ms = interval;
        }
        // With another source the name is that one's.
        sources.push((args.name.clone().filter(|_| is_only), SourceSpec::Host(spec)));
    }
    let spec = if let Some(path) = &args.csv {
        Some(SourceSpec::Csv(csv(args, CsvSpec::new(path))))
    } else if let Some(command) = &args.exec {
        Some(SourceSpec::Exec(exec(args, command)?))
    } else if args.stdin {
        Some(SourceSpec::Stdin(stdin(args)))
    } else if args.sim {
        Some(SourceSpec::Sim(sim(args)?))
    } else {
        None
    };
    sources.extend(spec.map(|spec| (args.name.clone(), spec)));
    refuse_unused(args)?;
    for (_, spec) in &sources {
        spec.validate().map_err(|error| Failure::usage(error.to_string()))?;
    }
    Ok(sources)
}

fn csv(args: &AgentArgs, mut spec: CsvSpec) -> CsvSpec {
    spec.time.clone_from(&args.time_column);
    spec.columns.clone_from(&args.value_column);
    spec.time_format = args.time_format.clone().unwrap_or(spec.time_format);
    spec.zone = args.time_zone.clone().unwrap_or(spec.zone);
    spec.replay = args.replay.unwrap_or(spec.replay);
    spec
}

fn exec(args: &AgentArgs, command: &str) -> Outcome<ExecSpec> {
    let mut spec = ExecSpec::new(vec![command.to_owned()]);
    spec.shell = true;
    spec.time.clone_from(&args.time_column);
    spec.fields.clone_from(&args.value_column);
    spec.time_format = args.time_format.clone().unwrap_or(spec.time_format);
    spec.zone = args.time_zone.clone().unwrap_or(spec.zone);
    spec.every_s = interval(args)?.map(|interval| interval.as_secs_f64());
    Ok(spec)
}

fn stdin(args: &AgentArgs) -> StdinSpec {
    let mut spec = StdinSpec::default();
    spec.time.clone_from(&args.time_column);
    spec.fields.clone_from(&args.value_column);
    spec.time_format = args.time_format.clone().unwrap_or(spec.time_format);
    spec.zone = args.time_zone.clone().unwrap_or(spec.zone);
    spec
}

fn sim(args: &AgentArgs) -> Outcome<SimSpec> {
    let mut spec = SimSpec::default();
    spec.interval_ms = interval_ms(args)?.unwrap_or(spec.interval_ms);
    spec.replay = args.replay.unwrap_or(spec.replay);
    Ok(spec)
}

/// A flag that the sources cannot use is a mistake, not a wish.
fn refuse_unused(args: &AgentArgs) -> Outcome {
    let rows = args.csv.is_some() || args.exec.is_some() || args.stdin;
    let any = rows || args.host || args.sim;
    let checks = [
        ("--time-column", args.time_column.is_some(), rows, "--csv, --exec or --stdin"),
        ("--time-format", args.time_format.is_some(), rows, "--csv, --exec or --stdin"),
        ("--time-zone", args.time_zone.is_some(), rows, "--csv, --exec or --stdin"),
        ("--value-column", !args.value_column.is_empty(), rows, "--csv, --exec or --stdin"),
        ("--replay", args.replay.is_some(), args.csv.is_some() || args.sim, "--csv or --sim"),
        (
            "--interval",
            args.interval.is_some(),
            args.host || args.sim || args.exec.is_some(),
            "--host, --sim or --exec",
        ),
        ("--name", args.name.is_some(), any, "a source flag, such as --host"),
        ("--place", args.place.is_some(), any, "a source flag, such as --host"),
        ("--licence", args.licence.is_some(), any, "a source flag, such as --host"),
        ("--price", args.price.is_some(), any, "a source flag, such as --host"),
        ("--sample", args.sample.is_some(), any, "a source flag, such as --host"),
    ];
    match checks.into_iter().find(|(_, given, usable, _)| *given && !usable) {
        Some((flag, _, _, with)) => Err(Failure::usage(format!("{flag} says nothing without {with}"))
            .hint("streams of config.toml have these settings there")),
        None => Ok(()),
    }
}

fn interval(args: &AgentArgs) -> Outcome<Option<std::time::Duration>> {
    let positive = |interval: jiff::SignedDuration| {
        std::time::Duration::try_from(interval)
            .ok()
            .filter(|interval| !interval.is_zero())
            .ok_or_else(|| Failure::usage("--interval must be above zero, such as 10s"))
    };
    args.interval.map(positive).transpose()
}

fn interval_ms(args: &AgentArgs) -> Outcome<Option<u64>> {
    Ok(interval(args)?.map(|interval| u64::try_from(interval.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensora_node::agent::source::Replay;

    fn args() -> AgentArgs {
        AgentArgs::default()
    }

    #[test]
    fn flags_become_the_source_they_mean() {
        assert!(of(&args()).unwrap().is_empty());
        let csv = AgentArgs {
            csv: Some("f.csv".into()),
            host: true,
            name: Some("m".into()),
            replay: Some(Replay::Paced(2.0)),
            value_column: vec!["T:float:Cel".parse().unwrap()],
            ..args()
        };
        let sources = of(&csv).unwrap();
        assert!(matches!(&sources[0], (None, SourceSpec::Host(_))));
        let (name, SourceSpec::Csv(spec)) = &sources[1] else { panic!("{sources:?}") };
        assert_eq!((name.as_deref(), spec.replay, spec.columns.len()), (Some("m"), Replay::Paced(2.0), 1));

        let host =
            AgentArgs { host: true, name: Some("h".into()), interval: Some("2s".parse().unwrap()), ..args() };
        let sources = of(&host).unwrap();
        assert!(matches!(&sources[..], [(Some(_), SourceSpec::Host(spec))] if spec.interval_ms == 2000));
    }

    #[test]
    fn a_flag_that_says_nothing_is_refused() {
        let wrong = [
            AgentArgs { name: Some("x".into()), ..args() },
            AgentArgs { host: true, replay: Some(Replay::AtOnce), ..args() },
            AgentArgs { sim: true, time_column: Some("t".parse().unwrap()), ..args() },
            AgentArgs { csv: Some("f".into()), interval: Some("1s".parse().unwrap()), ..args() },
            AgentArgs { host: true, interval: Some("-1s".parse().unwrap()), ..args() },
        ];
        for args in wrong {
            assert_eq!(of(&args).unwrap_err().exit, crate::exit::Exit::Usage, "{args:?}");
        }
    }
}
