//! `sensora sample STREAM`: a few of the newest readings for nothing, verified like bought ones.

use serde_json::json;

use super::buy::rows_table;
use super::find;
use super::rows;
use super::session::Session;
use crate::args::SampleArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::time_ns;

/// Gets and shows them.
pub(super) fn run(args: &SampleArgs, context: &Context) -> Outcome<Exit> {
    if args.count == 0 {
        return Err(Failure::usage("--count must be at least 1"));
    }
    let open = context.open_home()?;
    context.block_on(async {
        let session = Session::start(context, open, &args.network).await?;
        let sampled = async {
            let stream = find::stream(&session, &args.stream).await?;
            let readings = session.node.buyer().sample(stream.found.ad.key(), &stream.ad, args.count).await?;
            Ok::<_, Failure>((stream, readings))
        };
        let sampled = sampled.await;
        session.stop().await;
        let (stream, readings) = sampled?;
        let schema = &stream.ad.schema;
        if context.out.is_json() {
            let readings: Vec<_> = readings.iter().map(|reading| rows::json(schema, reading)).collect();
            context
                .out
                .document(&json!({"stream": stream.ad.id, "name": stream.ad.name, "readings": readings}))?;
        } else {
            let line = |reading: &sensora_protocol::stream::Reading| {
                let values = reading.values.iter().map(ToString::to_string).collect();
                (reading.seq, time_ns(reading.time), values)
            };
            rows_table(schema, &readings.iter().map(line).collect::<Vec<_>>(), context)?;
        }
        Ok(Exit::Ok)
    })
}
