//! A simulated climate station, for tests and for trying things out: the same seed gives the same readings.

use std::str::FromStr as _;

use sensora_protocol::stream::{Kind, Unit, Value};
use serde::{Deserialize, Serialize};

use super::error::SourceError;
use super::replay::{Pacer, Replay};
use super::{MAX_BATCH, RawBatch, RawReading, StreamSpec, columns};
use crate::clock::Clock;

const NS_PER_MS: i64 = 1_000_000;

/// What is simulated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimSpec {
    /// Decides every value; the same seed gives the same readings.
    #[serde(default)]
    pub seed: u64,
    /// How many streams, 1 to 1,000.
    #[serde(default = "default_streams")]
    pub streams: u32,
    /// Milliseconds between the times of two readings of a stream, 1 to 86,400,000.
    #[serde(default = "default_interval_ms")]
    pub interval_ms: u64,
    /// So many steps for each stream (about one in 50 stretches of 20 is left out, as by a station that was off);
    /// without end where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The time of the first reading (RFC 3339). Where it is not given, readings begin now, or with `at-once` so that
    /// they end now; then a restart begins anew as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// The pace.
    #[serde(default = "default_replay")]
    pub replay: Replay,
}

const fn default_streams() -> u32 {
    1
}

const fn default_interval_ms() -> u64 {
    1000
}

const fn default_replay() -> Replay {
    Replay::Paced(1.0)
}

impl Default for SimSpec {
    fn default() -> Self {
        Self {
            seed: 0,
            streams: default_streams(),
            interval_ms: default_interval_ms(),
            count: None,
            start: None,
            replay: default_replay(),
        }
    }
}

impl SimSpec {
    pub(super) fn validate(&self) -> Result<(), SourceError> {
        let wrong = |option, value: String, expected| Err(SourceError::Option { option, value, expected });
        if !(1..=1000).contains(&self.streams) {
            return wrong("streams", self.streams.to_string(), "1 to 1000");
        }
        if !(1..=86_400_000).contains(&self.interval_ms) {
            return wrong("interval_ms", self.interval_ms.to_string(), "1 to 86400000 milliseconds");
        }
        if self.replay == Replay::AtOnce && self.count.is_none() {
            return wrong(
                "replay",
                self.replay.to_string(),
                "real-time or faster=N where no `count` ends it",
            );
        }
        match &self.start {
            Some(start) if start_ns(start).is_none() => {
                wrong("start", start.clone(), "a time such as 2026-01-01T00:00:00Z")
            }
            _ => Ok(()),
        }
    }
}

fn start_ns(text: &str) -> Option<i64> {
    i64::try_from(jiff::Timestamp::from_str(text).ok()?.as_nanosecond()).ok()
}

/// A simulation under way.
#[derive(Debug)]
pub(super) struct SimSource {
    spec: SimSpec,
    start: i64,
    interval: i64,
    /// The next step.
    step: u64,
    /// For each stream, how many readings are still to be passed over.
    skip: Vec<u64>,
    pacer: Pacer,
}

impl SimSource {
    pub(super) fn open(
        spec: &SimSpec,
        name: &str,
        clock: &Clock,
    ) -> Result<(Vec<StreamSpec>, Self), SourceError> {
        let interval = i64::try_from(spec.interval_ms).unwrap_or(i64::MAX).saturating_mul(NS_PER_MS);
        let start = match (&spec.start, spec.replay, spec.count) {
            (Some(start), _, _) => start_ns(start).unwrap_or(0),
            (None, Replay::AtOnce, Some(count)) => clock
                .now_ns()
                .saturating_sub(interval.saturating_mul(i64::try_from(count).unwrap_or(i64::MAX))),
            (None, _, _) => clock.now_ns(),
        };
        let unit = |name| Unit::new(name).ok();
        let fields = [("temperature", unit("Cel")), ("humidity", unit("%RH"))];
        let schema = columns::schema(
            name,
            fields.iter().map(|(name, unit)| ((*name).to_owned(), Kind::Float, *unit)),
        )?;
        let streams = (1..=spec.streams).map(|number| StreamSpec {
            name: if spec.streams == 1 { name.to_owned() } else { format!("{name}.{number}") },
            kinds: columns::kinds(&schema),
            schema: schema.clone(),
            cadence: Some(std::time::Duration::from_millis(spec.interval_ms)),
            fingerprint: None,
        });
        let source = Self {
            spec: spec.clone(),
            start,
            interval,
            step: 0,
            skip: vec![0; usize::try_from(spec.streams).unwrap_or(1)],
            pacer: Pacer::new(spec.replay),
        };
        Ok((streams.collect(), source))
    }

    pub(super) fn resume(&mut self, stream: usize, recorded: u64) {
        if let Some(skip) = self.skip.get_mut(stream).filter(|_| self.spec.start.is_some()) {
            *skip = recorded;
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<RawBatch>, SourceError> {
        loop {
            if let Some(batch) = self.pacer.next().await {
                return Ok(Some(batch));
            }
            let mut made = 0_usize;
            while made < MAX_BATCH && self.spec.count.is_none_or(|count| self.step < count) {
                made = made.saturating_add(self.make_step());
                // So that a long run of what is passed over does not hold up the others.
                if made == 0 && self.step.is_multiple_of(1 << 16) {
                    tokio::task::yield_now().await;
                }
            }
            if made == 0 {
                return Ok(None);
            }
        }
    }

    /// Makes one step of all streams; says how many readings came of it.
    fn make_step(&mut self) -> usize {
        let step = self.step;
        self.step = self.step.saturating_add(1);
        let time = i64::try_from(step)
            .ok()
            .and_then(|step| step.checked_mul(self.interval))
            .and_then(|after| self.start.checked_add(after));
        let Some(time) = time else {
            // The end of what a time can say is an end.
            self.spec.count = Some(0);
            return 0;
        };
        let mut made = 0_usize;
        for (stream, skip) in self.skip.iter_mut().enumerate() {
            let Some(values) = values(self.spec.seed, stream, step, time) else { continue };
            if *skip > 0 {
                *skip = skip.saturating_sub(1);
                continue;
            }
            self.pacer.push([(stream, RawReading { time, values })]);
            made = made.saturating_add(1);
        }
        made
    }
}

/// A day's curve with noise, to two decimals; `None` in a gap.
fn values(seed: u64, stream: usize, step: u64, time: i64) -> Option<Vec<Value>> {
    let of_stream = mix(seed ^ mix(u64::try_from(stream).unwrap_or(u64::MAX)));
    if mix(of_stream ^ mix(step / 20)).is_multiple_of(50) {
        return None;
    }
    let day = (time.rem_euclid(86_400_000_000_000)) as f64 / 86_400_000_000_000.0;
    let curve = ((day - 0.375) * std::f64::consts::TAU).sin();
    // Two numbers that are evenly spread make one that is more often near the middle.
    let noise = |which: u64| {
        let number = mix(of_stream ^ mix(step).wrapping_add(which));
        let (high, low) = ((number >> 32) as f64, (number & 0xffff_ffff) as f64);
        (high + low) / 4_294_967_296.0 - 1.0
    };
    let level = (mix(of_stream) % 1000) as f64 / 100.0;
    let round = |number: f64| Value::Float((number * 100.0).round() / 100.0);
    Some(vec![
        round(12.0 + level + 6.0 * curve + 0.4 * noise(1)),
        round(55.0 - 15.0 * curve + 2.0 * noise(2)),
    ])
}

/// The finaliser of SplitMix64: every bit of the input changes half of the output's.
const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
