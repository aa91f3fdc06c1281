//! This machine's own sensors: processor, memory, disks, network and, where it has them, temperatures.
//!
//! Sums only: names of disks and interfaces, which would tell more about a machine than its owner may mean to sell,
//! are not part of any stream. Temperature sensors are named by what the machine calls them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use sensora_protocol::stream::schema::MAX_FIELDS;
use sensora_protocol::stream::{Kind, Schema, Unit, Value};
use serde::{Deserialize, Serialize};
use sysinfo::{
    Components, CpuRefreshKind, Disks, MINIMUM_CPU_UPDATE_INTERVAL, MemoryRefreshKind, Networks, RefreshKind,
    System,
};
use tokio::sync::mpsc;

use super::error::SourceError;
use super::{BATCHES_AHEAD, RawBatch, RawReading, StreamSpec, blocking, columns};
use crate::clock::Clock;

/// Temperatures outside of this, in degrees Celsius, are a sensor's way of saying that it has none.
const PLAUSIBLE: std::ops::RangeInclusive<f32> = -50.0..=150.0;

/// Which of the machine's sensors are read, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// Milliseconds between two readings, 250 to 86,400,000.
    #[serde(default = "default_interval_ms")]
    pub interval_ms: u64,
    /// The groups to read; all where none are given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<HostGroup>,
}

const fn default_interval_ms() -> u64 {
    1000
}

impl Default for HostSpec {
    fn default() -> Self {
        Self { interval_ms: default_interval_ms(), only: Vec::new() }
    }
}

impl HostSpec {
    pub(super) fn validate(&self) -> Result<(), SourceError> {
        // The processor's use is a difference over at least 200 ms.
        if !(250..=86_400_000).contains(&self.interval_ms) {
            return Err(SourceError::Option {
                option: "interval_ms",
                value: self.interval_ms.to_string(),
                expected: "250 to 86400000 milliseconds",
            });
        }
        Ok(())
    }
}

/// A group of sensors; each is one stream, `host.cpu` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostGroup {
    /// Use in percent, load and frequency.
    Cpu,
    /// Bytes of memory and swap.
    Memory,
    /// Bytes of disk space, and bytes read and written.
    Disk,
    /// Bytes and packets received and sent.
    Network,
    /// Every temperature the machine shows.
    Temperature,
}

impl HostGroup {
    const ALL: [Self; 5] = [Self::Cpu, Self::Memory, Self::Disk, Self::Network, Self::Temperature];

    const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Temperature => "temperature",
        }
    }
}

/// This machine, open.
#[derive(Debug)]
pub(super) struct HostSource {
    state: State,
}

#[derive(Debug)]
enum State {
    Opened(Box<Sampler>, Duration),
    Reading {
        readings: mpsc::Receiver<RawBatch>,
        /// Dropping it wakes and ends the thread.
        _stop: std_mpsc::SyncSender<()>,
    },
}

impl HostSource {
    pub(super) async fn open(
        spec: &HostSpec,
        name: &str,
        clock: &Clock,
    ) -> Result<(Vec<StreamSpec>, Self), SourceError> {
        let (spec, name, clock) = (spec.clone(), name.to_owned(), clock.clone());
        let interval = Duration::from_millis(spec.interval_ms);
        let opened = blocking::run("host-open", move || {
            let (sampler, schemas) = Sampler::open(&spec, &clock)?;
            let streams = schemas.into_iter().map(|(group, schema)| StreamSpec {
                name: format!("{name}.{}", group.name()),
                kinds: vec![group.name().to_owned()],
                schema,
                cadence: Some(interval),
                fingerprint: None,
            });
            Ok((streams.collect(), Box::new(sampler)))
        });
        let (streams, sampler) = opened
            .await
            .unwrap_or_else(|| Err(SourceError::Reader { what: "this machine's sensors".to_owned() }))?;
        Ok((streams, Self { state: State::Opened(sampler, interval) }))
    }

    pub(super) async fn next(&mut self) -> Result<Option<RawBatch>, SourceError> {
        loop {
            if let State::Reading { readings, .. } = &mut self.state {
                let batch = readings.recv().await;
                return batch
                    .map(Some)
                    .ok_or_else(|| SourceError::Reader { what: "this machine's sensors".to_owned() });
            }
            let (sender, readings) = mpsc::channel(BATCHES_AHEAD);
            let (stop, stopped) = std_mpsc::sync_channel(0);
            let reading = State::Reading { readings, _stop: stop };
            if let State::Opened(sampler, interval) = std::mem::replace(&mut self.state, reading) {
                blocking::spawn("host-read", move || sampler.run(interval, &sender, &stopped));
            }
        }
    }
}

/// Reads the sensors.
struct Sampler {
    clock: Clock,
    groups: Vec<HostGroup>,
    system: System,
    disks: Option<Disks>,
    networks: Option<Networks>,
    components: Option<Components>,
    /// The ids and labels of the temperatures, in the order of their fields.
    temperatures: Vec<String>,
    has_load: bool,
    has_frequency: bool,
    cpu_read: Instant,
    disk_before: Option<(Instant, [u64; 2])>,
    network_before: Option<(Instant, [u64; 2])>,
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler").field("groups", &self.groups).finish_non_exhaustive()
    }
}

impl Sampler {
    fn open(spec: &HostSpec, clock: &Clock) -> Result<(Self, Vec<(HostGroup, Schema)>), SourceError> {
        let refused = |what: &'static str| {
            move |error: sysinfo::Error| SourceError::Io {
                action: "read",
                what: what.to_owned(),
                source: std::io::Error::other(error.to_string()),
            }
        };
        let kinds = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::everything())
            .with_memory(MemoryRefreshKind::everything());
        let mut sampler = Self {
            clock: clock.clone(),
            groups: Vec::new(),
            system: System::new_with_specifics(kinds).map_err(refused("the processor and memory"))?,
            disks: Disks::new_with_refreshed_list().ok(),
            networks: Networks::new_with_refreshed_list().ok(),
            components: Components::new_with_refreshed_list().ok(),
            temperatures: Vec::new(),
            has_load: System::load_average().is_ok(),
            has_frequency: false,
            cpu_read: Instant::now(),
            disk_before: None,
            network_before: None,
        };
        sampler.has_frequency = sampler.frequency().is_some();
        let mut schemas = Vec::new();
        for group in HostGroup::ALL {
            if !spec.only.is_empty() && !spec.only.contains(&group) {
                continue;
            }
            match sampler.fields(group) {
                Some(fields) => {
                    schemas.push((group, columns::schema("this machine", fields.into_iter())?));
                    sampler.groups.push(group);
                }
                None => tracing::info!(
                    "this machine shows no sensors for host.{}, so it has no such stream",
                    group.name()
                ),
            }
        }
        if schemas.is_empty() {
            return Err(SourceError::NoSensors);
        }
        Ok((sampler, schemas))
    }

    /// The fields of a group, in the order of [`Sampler::values`]; `None` where the machine has none of them.
    fn fields(&mut self, group: HostGroup) -> Option<Vec<(String, Kind, Option<Unit>)>> {
        let field = |name: &str, kind, unit: &str| (name.to_owned(), kind, Unit::new(unit).ok());
        let bytes = |name: &str| field(name, Kind::Int, "B");
        let rate = |name: &str| field(name, Kind::Float, "B/s");
        Some(match group {
            HostGroup::Cpu if self.system.cpus().is_empty() => return None,
            HostGroup::Cpu => {
                let mut fields = vec![field("usage", Kind::Float, "/100")];
                if self.has_load {
                    fields.push(field("load_1m", Kind::Float, ""));
                }
                if self.has_frequency {
                    fields.push(field("frequency", Kind::Float, "MHz"));
                }
                fields
            }
            HostGroup::Memory if self.system.total_memory() == 0 => return None,
            HostGroup::Memory => {
                ["used", "available", "total", "swap_used", "swap_total"].map(bytes).to_vec()
            }
            HostGroup::Disk => {
                self.disk_space()?;
                let counters = [bytes("read"), bytes("written"), rate("read_rate"), rate("write_rate")];
                [bytes("available"), bytes("total")].into_iter().chain(counters).collect()
            }
            HostGroup::Network => {
                self.network_counters()?;
                let packets = |name: &str| field(name, Kind::Int, "count");
                vec![
                    bytes("received"),
                    bytes("sent"),
                    packets("packets_received"),
                    packets("packets_sent"),
                    rate("receive_rate"),
                    rate("send_rate"),
                ]
            }
            HostGroup::Temperature => {
                let found: BTreeSet<String> = self
                    .components
                    .iter()
                    .flat_map(|components| components.iter())
                    // Exactly zero is what an absent sensor reads.
                    .filter(|component| {
                        component.temperature().is_some_and(|t| t != 0.0 && PLAUSIBLE.contains(&t))
                    })
                    .map(component_key)
                    .collect();
                self.temperatures = found.into_iter().take(MAX_FIELDS).collect();
                if self.temperatures.is_empty() {
                    return None;
                }
                let label = |key: &String| key.split('\u{0}').next().unwrap_or_default().to_lowercase();
                self.temperatures.iter().map(|key| field(&label(key), Kind::Float, "Cel")).collect()
            }
        })
    }

    /// Reads at each tick until the receiver is gone. A tick that passed while a batch was waited for is left out: a
    /// reading that is late by seconds would claim a time that it was not measured at.
    fn run(
        mut self: Box<Self>,
        interval: Duration,
        sender: &mpsc::Sender<RawBatch>,
        stopped: &std_mpsc::Receiver<()>,
    ) {
        let mut next = self.cpu_read + MINIMUM_CPU_UPDATE_INTERVAL;
        loop {
            let pause = next.saturating_duration_since(Instant::now());
            if !matches!(stopped.recv_timeout(pause), Err(std_mpsc::RecvTimeoutError::Timeout)) {
                return;
            }
            let batch = self.sample();
            if sender.blocking_send(batch).is_err() {
                return;
            }
            let late = Instant::now().saturating_duration_since(next);
            let ticks = late.as_nanos() / interval.as_nanos().max(1) + 1;
            next += interval.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX));
        }
    }

    fn sample(&mut self) -> RawBatch {
        let time = self.clock.now_ns();
        let groups = self.groups.clone();
        let readings = groups
            .into_iter()
            .enumerate()
            .map(|(stream, group)| (stream, RawReading { time, values: self.values(group) }));
        RawBatch { readings: readings.collect() }
    }

    fn values(&mut self, group: HostGroup) -> Vec<Value> {
        match group {
            HostGroup::Cpu => {
                self.system.refresh_cpu_all();
                self.cpu_read = Instant::now();
                let mut values = vec![float(self.system.global_cpu_usage())];
                if self.has_load {
                    values.push(System::load_average().map_or(Value::Null, |load| finite(load.one)));
                }
                if self.has_frequency {
                    values.push(self.frequency().map_or(Value::Null, finite));
                }
                values
            }
            HostGroup::Memory => {
                self.system.refresh_memory();
                let system = &self.system;
                let bytes = [
                    system.used_memory(),
                    system.available_memory(),
                    system.total_memory(),
                    system.used_swap(),
                    system.total_swap(),
                ];
                bytes.map(int).to_vec()
            }
            HostGroup::Disk => {
                if let Some(disks) = &mut self.disks {
                    disks.refresh(true);
                }
                let Some([available, total, read, written]) = self.disk_space() else {
                    return vec![Value::Null; 6];
                };
                let rates = rates(&mut self.disk_before, [read, written]);
                [available, total, read, written].map(int).into_iter().chain(rates).collect()
            }
            HostGroup::Network => {
                if let Some(networks) = &mut self.networks {
                    networks.refresh(true);
                }
                let Some([received, sent, packets_in, packets_out]) = self.network_counters() else {
                    return vec![Value::Null; 6];
                };
                let rates = rates(&mut self.network_before, [received, sent]);
                [received, sent, packets_in, packets_out].map(int).into_iter().chain(rates).collect()
            }
            HostGroup::Temperature => {
                if let Some(components) = &mut self.components {
                    components.refresh(false);
                }
                let of = |key: &String| {
                    let component = self
                        .components
                        .iter()
                        .flat_map(|components| components.iter())
                        .find(|component| component_key(component) == *key);
                    component
                        .and_then(sysinfo::Component::temperature)
                        .filter(|celsius| PLAUSIBLE.contains(celsius))
                        .map_or(Value::Null, float)
                };
                self.temperatures.iter().map(of).collect()
            }
        }
    }

    /// The mean frequency of the cores in MHz.
    fn frequency(&self) -> Option<f64> {
        let known: Vec<f64> =
            self.system.cpus().iter().map(|cpu| cpu.frequency() as f64).filter(|mhz| *mhz > 0.0).collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    }

    /// Bytes available, in all, read and written, over all disks that can be written to.
    fn disk_space(&self) -> Option<[u64; 4]> {
        let mut seen = BTreeSet::new();
        let mut sum = None;
        for disk in self
            .disks
            .iter()
            .flat_map(|disks| disks.iter())
            .filter(|disk| !disk.is_read_only() && disk.total_space() > 0)
        {
            // One disk may be mounted in several places.
            if !seen.insert(disk.name()) {
                continue;
            }
            let usage = disk.usage();
            let of = [
                disk.available_space(),
                disk.total_space(),
                usage.total_read_bytes,
                usage.total_written_bytes,
            ];
            sum = Some(add(sum.unwrap_or_default(), of));
        }
        sum
    }

    /// Bytes received and sent, packets received and sent, over all interfaces that lead out of the machine.
    fn network_counters(&self) -> Option<[u64; 4]> {
        let is_loopback = |name: &OsStr| name == "lo" || name == "lo0";
        let outside: Vec<_> = self
            .networks
            .iter()
            .flat_map(|networks| networks.iter())
            .filter(|(name, _)| !is_loopback(name))
            .collect();
        // A bridge or a tunnel counts what a device counts again; in a container there are only such.
        let has_device = |name: &OsStr| Path::new("/sys/class/net").join(name).join("device").exists();
        let devices: Vec<_> = outside.iter().filter(|(name, _)| has_device(name)).collect();
        let counted = if devices.is_empty() { outside.iter().collect() } else { devices };
        let mut sum = None;
        for (_, data) in counted {
            let of = [
                data.total_received(),
                data.total_transmitted(),
                data.total_packets_received(),
                data.total_packets_transmitted(),
            ];
            sum = Some(add(sum.unwrap_or_default(), of));
        }
        sum
    }
}

/// A component's label and what tells it from others of the same label; sorts by label.
fn component_key(component: &sysinfo::Component) -> String {
    format!("{}\u{0}{}", component.label(), component.id().unwrap_or_default())
}

fn add(to: [u64; 4], of: [u64; 4]) -> [u64; 4] {
    let mut sum = to;
    for (sum, of) in sum.iter_mut().zip(of) {
        *sum = sum.saturating_add(of);
    }
    sum
}

/// How fast two counters grew since they were read before; nothing at first, and after a counter began anew.
fn rates(before: &mut Option<(Instant, [u64; 2])>, now: [u64; 2]) -> [Value; 2] {
    let at = Instant::now();
    let rates = before.map_or([Value::Null, Value::Null], |(then, counters)| {
        let seconds = at.saturating_duration_since(then).as_secs_f64();
        let [first, second] = [0, 1].map(|index: usize| {
            let grown =
                now.get(index).zip(counters.get(index)).and_then(|(now, then)| now.checked_sub(*then));
            grown.filter(|_| seconds > 0.0).map_or(Value::Null, |grown| finite(grown as f64 / seconds))
        });
        [first, second]
    });
    *before = Some((at, now));
    rates
}

fn int(number: u64) -> Value {
    i64::try_from(number).map_or(Value::Null, Value::Int)
}

/// Without the digits that a single precision number seems to gain as a double one.
fn float(number: f32) -> Value {
    finite((f64::from(number) * 1000.0).round() / 1000.0)
}

fn finite(number: f64) -> Value {
    if number.is_finite() { Value::Float(number) } else { Value::Null }
}
