//! A proof of misbehaviour convicts whoever signed the offer, and nobody else.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{World, run};

/// The golden proof: CBOR bytes.
pub(crate) fn golden() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/tests/vectors/key_release.json");
    let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let vectors = vectors["vectors"].as_array().unwrap();
    let proof = vectors.iter().find(|vector| vector["name"] == "misbehaviour").unwrap();
    hex::decode(proof["bytes"].as_str().unwrap()).unwrap()
}

fn written(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_proof_of_misbehaviour_convicts_whoever_signed_the_offer() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = golden();
    let proof =
        sensora_protocol::market::key_release::misbehaviour::MisbehaviourProof::from_bytes(&bytes).unwrap();
    let conviction = proof.verify().unwrap();
    let json = proof.to_json().unwrap();
    for path in
        [written(folder.path(), "proof.cbor", &bytes), written(folder.path(), "proof.json", json.as_bytes())]
    {
        let line = format!("verify --misbehaviour {}", path.display());
        let shown = run(&format!("--json {line}")).ends_with(0);
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
        assert_eq!(
            (&shown["verified"], &shown["convicted"]),
            (&Value::Bool(true), &Value::Bool(true)),
            "{shown:#}"
        );
        assert_eq!(shown["seller"], conviction.seller);
        assert_eq!(shown["part"], conviction.part);
        assert_eq!((&shown["first"], &shown["count"]), (&conviction.first.into(), &conviction.count.into()));
        let text = run(&line).ends_with(0).stdout;
        assert!(text.contains(&conviction.seller) && text.contains(&conviction.fault), "{text}");
    }
}

#[test]
fn what_convicts_nobody_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = golden();
    let mut changed = bytes.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    for (name, bytes) in
        [("changed", &changed[..]), ("short", &bytes[..bytes.len() - 1]), ("empty", b""), ("text", b"{}")]
    {
        let path = written(folder.path(), name, bytes);
        let error = run(&format!("--json verify --misbehaviour {}", path.display())).ends_with(6).error();
        assert_eq!(error["code"], "unverified", "{name}");
        assert!(error["message"].as_str().unwrap().contains("convicts nobody"), "{name}: {error:#}");
    }
    let path = written(folder.path(), "proof", &bytes);
    run(&format!("verify --misbehaviour --sync {}", path.display())).ends_with(2);
    run("verify --misbehaviour /nonexistent/proof").ends_with(3);
}

#[test]
fn readings_of_one_order_that_stand_differently_are_told_apart() {
    let world = World::new();
    let (seller, buyer) = (world.home("seller"), world.funded("buyer"));
    let agent = |every: u32| {
        let line = "agent --json --sim --name sim --price 1 --listen /ip4/127.0.0.1/tcp/0";
        seller.spawn(&format!("{line} --anchor-every {every}"))
    };
    let mut first = agent(1);
    first.wait_for(|event| event["event"] == "anchored" && event["height"].is_number());
    assert_eq!(first.interrupt(), 0);
    // It anchors what it has when it starts, if that is new, and then nothing for a day.
    let mut second = agent(86_400);
    second.wait_for(|event| event["event"] == "ready");
    let line = "subscribe sim --from 0 --count 12 --budget 100 --json";
    let ended = buyer.run(line).ends_with(0).events().pop().unwrap();
    let (order, count) = (ended["order"].as_str().unwrap(), ended["count"].as_u64().unwrap());
    assert!(count >= 12, "{ended:#}");

    let sold = second.wait_for(|event| event["event"] == "sold");
    assert_eq!((sold["order"].as_str(), sold["count"].as_u64()), (Some(order), Some(count)), "{sold:#}");

    let written = buyer.run(&format!("orders {order} --evidence proof.json --json")).ends_with(10).json();
    assert_eq!(written["evidence"], serde_json::json!(["proof.json", "proof-2.json"]), "{written:#}");
    let both = buyer.run("verify proof.json proof-2.json --sync --json").ends_with(10).json();
    let [mined, signed] = both["files"].as_array().unwrap().as_slice() else { panic!("{both:#}") };
    assert_eq!((&mined["standing"], &signed["standing"]), (&"mined".into(), &"signed".into()), "{both:#}");
    assert_eq!((mined["first"].as_u64(), signed["first"].as_u64()), (Some(0), mined["count"].as_u64()));
    assert_eq!(mined["count"].as_u64().unwrap() + signed["count"].as_u64().unwrap(), count);
    assert!(mined["height"].is_number() && mined["confirmations"].as_u64() > Some(0), "{mined:#}");

    // Each by itself, and a file that was altered is named among good ones.
    buyer.run("verify proof.json").ends_with(0);
    let text = std::fs::read_to_string(world.path("proof-2.json")).unwrap();
    let from = format!("\"seq\": {}", count - 1);
    assert!(text.contains(&from), "{text}");
    std::fs::write(world.path("proof-2.json"), text.replace(&from, "\"seq\": 1000")).unwrap();
    let altered = buyer.run("verify proof.json proof-2.json").ends_with(6);
    assert!(altered.stderr.contains("proof-2.json"), "{}", altered.stderr);
    assert_eq!(second.interrupt(), 0);
}
