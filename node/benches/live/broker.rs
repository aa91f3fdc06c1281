//! Mosquitto with its own configuration on a free port, and clients of it.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{Pace, Run, now_ns, produce};

/// Debian's package puts it where only root's PATH looks.
const PROGRAMS: [&str; 2] = ["mosquitto", "/usr/sbin/mosquitto"];
const TOPIC: &str = "sensors/one";
/// Messages of the publisher that are not acknowledged yet. Rumqttc's default: more did not make it faster here.
const IN_FLIGHT: u16 = 100;
/// Messages that wait in the publisher. As many as readings wait for our recorder.
const QUEUED: usize = 1024;

/// A running broker. It ends with this.
pub(super) struct Broker {
    process: Child,
    port: u16,
    _folder: TempDir,
}

impl Broker {
    /// Starts one, where mosquitto is installed.
    pub(super) fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = folder.path().join("mosquitto.conf");
        let mut file = std::fs::File::create(&path).unwrap();
        // No message is dropped however far a subscriber is behind, and none waits for Nagle. Nothing is kept on disk, which is its default.
        let lines = [
            &format!("listener {port} 127.0.0.1"),
            "allow_anonymous true",
            "persistence false",
            "max_queued_messages 0",
            "max_inflight_messages 1000",
            "set_tcp_nodelay true",
            "log_type none",
        ];
        writeln!(file, "{}", lines.join("\n")).unwrap();
        let start = |program: &str| {
            let mut command = Command::new(program);
            command.arg("-c").arg(&path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
        };
        let process = PROGRAMS.into_iter().find_map(start)?;
        let broker = Self { process, port, _folder: folder };
        let until = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(broker)
    }

    fn client(&self, name: &str) -> (AsyncClient, EventLoop) {
        let mut options = MqttOptions::new(name, "127.0.0.1", self.port);
        options.set_inflight(IN_FLIGHT);
        let (client, mut events) = AsyncClient::new(options, QUEUED);
        events.network_options.set_tcp_nodelay(true);
        (client, events)
    }

    /// Publishes so many messages at QoS 1 and waits until each subscriber has all of them.
    pub(super) async fn run(&self, subscribers: usize, count: u64, pace: Pace) -> Vec<Run> {
        let mut receiving = JoinSet::new();
        for number in 0..subscribers {
            let (client, mut events) = self.client(&format!("subscriber-{number}"));
            client.subscribe(TOPIC, QoS::AtLeastOnce).await.unwrap();
            until_packet(&mut events, |packet| matches!(packet, Packet::SubAck(_))).await;
            receiving.spawn(async move {
                let mut late = Vec::with_capacity(usize::try_from(count).unwrap());
                while (late.len() as u64) < count {
                    if let Event::Incoming(Packet::Publish(message)) = events.poll().await.unwrap() {
                        let (made, number) = message.payload.split_at(8);
                        let made = i64::from_be_bytes(made.try_into().unwrap());
                        let number = u64::from_be_bytes(number[..8].try_into().unwrap());
                        assert_eq!(number, late.len() as u64, "in order and without loss");
                        late.push(now_ns().abs_diff(made));
                    }
                }
                drop(client);
                (Instant::now(), late)
            });
        }
        let (client, mut events) = self.client("publisher");
        until_packet(&mut events, |packet| matches!(packet, Packet::ConnAck(_))).await;
        let publishing = tokio::spawn(async move { while events.poll().await.is_ok() {} });
        let began = Instant::now();
        produce(count, pace, async |time, number| {
            let mut payload = Vec::with_capacity(super::MESSAGE);
            payload.extend_from_slice(&time.to_be_bytes());
            payload.extend_from_slice(&number.to_be_bytes());
            for value in super::values(number).into_iter().skip(1) {
                payload.extend_from_slice(&value.to_be_bytes());
            }
            payload.resize(super::MESSAGE, 0);
            client.publish(TOPIC, QoS::AtLeastOnce, false, payload).await.unwrap();
        })
        .await;
        let mut runs = Vec::new();
        while let Some(received) = receiving.join_next().await {
            let (ended, late) = received.unwrap();
            runs.push(Run { count, took: ended - began, late });
        }
        publishing.abort();
        runs
    }
}

async fn until_packet(events: &mut EventLoop, is_it: impl Fn(&Packet) -> bool) {
    while !matches!(events.poll().await.unwrap(), Event::Incoming(packet) if is_it(&packet)) {}
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
