//! A proof of misbehaviour convicts whoever signed the offer, and nobody else.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::run;

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
