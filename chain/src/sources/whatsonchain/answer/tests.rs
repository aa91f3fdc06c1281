use super::*;

/// A header of the main network, in the documentation of WhatsOnChain.
const HEADER: &str = r#"{"hash":"000000000000000004a288072ebb35e37233f419918f9783d499979cb6ac33eb","confirmations":74834,"height":575045,"version":536928256,"versionHex":"2000e000","merkleroot":"4ebcba09addd720991d03473f39dce4b9a72cc164e505cd446687a54df9b1585","time":1553416668,"mediantime":1553414858,"nonce":87914848,"bits":"180997ee","difficulty":114608607557.4425,"chainwork":"000000000000000000000000000000000000000000ddf5d385546872bab7dc01","previousblockhash":"00000000000000000988156c7075dc9147a5b62922f1310862e8b9000d46dd9b","nextblockhash":"00000000000000000112b36a37c10235fa0c991f680bc5482ba9692e0ae697db"}"#;

/// A coinbase of the main network, likewise.
const COINBASE: &str = "01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff1c03d7c6082f7376706f6f6c2e636f6d2f3edff034600055b8467f0040ffffffff01247e814a000000001976a914492558fb8ca71a3591316d095afc0f20ef7d42f788ac00000000";
const COINBASE_ID: &str = "c1d32f28baa27a376ba977f6a8de6ce0a87041157cef0274b20bfda2b0d8df96";
/// Its proof, with the block, and the Merkle root that goes with it.
const PROOF: &str = r#"[{"index":0,"txOrId":"c1d32f28baa27a376ba977f6a8de6ce0a87041157cef0274b20bfda2b0d8df96","target":"0000000000000000091216c46973d82db057a6f9911352892b7769ed517681c3","nodes":["7e0ba1980522125f1f40d19a249ab3ae036001b991776813d25aebe08e8b8a50","1e3a5a8946e0caf07006f6c4f76773d7e474d4f240a276844f866bd09820adb3"]}]"#;
const BLOCK: &str = "0000000000000000091216c46973d82db057a6f9911352892b7769ed517681c3";
const ROOT: &str = "95a920b1002bed05379a0d2650bb13eb216138f28ee80172f4cf21048528dc60";

fn id() -> Txid {
    COINBASE_ID.parse().unwrap()
}

#[test]
fn a_real_header_is_put_together_from_its_fields() {
    let (header, height) = header(HEADER.as_bytes()).unwrap();
    assert_eq!(height, 575_045);
    assert_eq!(header.hash().to_string(), "000000000000000004a288072ebb35e37233f419918f9783d499979cb6ac33eb");
    assert!(header.meets_target(crate::Network::Main));
}

#[test]
fn a_header_with_another_hash_is_refused() {
    let change = |from, to| header(HEADER.replacen(from, to, 1).as_bytes());
    assert!(change("87914848", "87914849").unwrap_err().contains("has the hash"));
    assert!(change("180997ee", "1809zz").unwrap_err().contains("bits"));
    assert!(change("536928256", "99999999999").unwrap_err().contains("version"));
    assert!(change("536928256", "-1").is_err(), "read, and another hash");
    assert!(change("575045", "-1").is_err());
    assert!(change("00000000000000000988156c", "x").is_err());
}

#[test]
fn the_first_header_has_none_before_it() {
    let genesis = Header::regtest_genesis();
    let json = format!(
        r#"{{"hash":"{}","height":0,"version":1,"merkleroot":"{}","time":1296688602,"nonce":2,"bits":"207fffff"}}"#,
        genesis.hash(),
        BlockHash(genesis.merkle_root())
    );
    assert_eq!(header(json.as_bytes()), Ok((genesis, 0)));
}

#[test]
fn the_tip_names_its_network() {
    let json = format!(
        r#"{{"chain":"main","blocks":575191,"headers":575191,"bestblockhash":"{BLOCK}","pruned":false}}"#
    );
    let (tip, chain) = chain_info(json.as_bytes()).unwrap();
    assert_eq!((tip.height, tip.hash.to_string().as_str(), chain.as_deref()), (575_191, BLOCK, Some("main")));
    assert!(chain_info(json.replace("575191", "-575191").as_bytes()).is_err());
}

#[test]
fn a_transaction_has_the_id_that_was_asked_for() {
    assert_eq!(transaction(COINBASE.as_bytes(), &id()).unwrap().txid(), id());
    assert!(transaction(format!("\"{COINBASE}\"\n").as_bytes(), &id()).is_ok());
    let other = COINBASE.replace("247e814a", "257e814a");
    assert!(transaction(other.as_bytes(), &id()).unwrap_err().contains("asked for"));
    for odd in ["", "zz", "\"", "0100", &COINBASE[..COINBASE.len() - 2]] {
        assert!(transaction(odd.as_bytes(), &id()).is_err(), "{odd}");
    }
}

#[test]
fn a_sent_transaction_keeps_its_id() {
    assert_eq!(sent(format!("\"{COINBASE_ID}\"\n").as_bytes(), &id()), Ok(()));
    assert_eq!(sent(COINBASE_ID.as_bytes(), &id()), Ok(()));
    assert!(sent(BLOCK.as_bytes(), &id()).is_err());
    assert!(sent(b"", &id()).is_err());
}

#[test]
fn a_proof_of_the_main_network_leads_to_its_root() {
    let (proof, block) = proof(PROOF.as_bytes(), None).unwrap().unwrap();
    assert_eq!(block.to_string(), BLOCK);
    let path = proof.path(575_191, &id()).unwrap();
    assert_eq!(BlockHash(path.root_for(&id()).unwrap()).to_string(), ROOT);
}

#[test]
fn only_the_proof_of_the_named_block_counts() {
    let block = BLOCK.parse().unwrap();
    assert!(proof(PROOF.as_bytes(), Some(&block)).unwrap().is_some());
    assert_eq!(proof(PROOF.as_bytes(), Some(&BlockHash([1; 32]))), Ok(None));
    let stale = PROOF.replace(BLOCK, ROOT);
    let both = format!("{},{}", stale.trim_end_matches(']'), PROOF.trim_start_matches('['));
    assert_eq!(proof(both.as_bytes(), Some(&block)).unwrap().unwrap().1, block);
    let alone = PROOF.trim_matches(['[', ']']);
    assert!(proof(alone.as_bytes(), Some(&block)).unwrap().is_some());
    assert_eq!(proof(b"null", Some(&block)), Ok(None));
    assert_eq!(proof(b"[]", Some(&block)), Ok(None));
    assert!(proof(stale.replace(ROOT, "x").as_bytes(), Some(&block)).is_err());
    assert!(proof(b"[{}]", Some(&block)).is_err());
}

#[test]
fn where_a_transaction_stands() {
    let of = |fields: &str| standing(format!(r#"[{{"txid":"{COINBASE_ID}"{fields}}}]"#).as_bytes(), &id());
    assert_eq!(of(r#","error":"unknown""#), Ok(Standing::Unknown));
    assert_eq!(of(""), Ok(Standing::Waiting));
    assert_eq!(of(r#","blockhash":"","blockheight":0,"confirmations":0"#), Ok(Standing::Waiting));
    let mined = |height, block| Ok(Standing::Mined(Mined { height, block }));
    let block = BLOCK.parse().ok();
    assert_eq!(
        of(&format!(r#","blockhash":"{BLOCK}","blockheight":575191,"blocktime":1,"confirmations":2"#)),
        mined(Some(575_191), block)
    );
    assert_eq!(of(&format!(r#","blockhash":"{BLOCK}""#)), mined(None, block));
    assert_eq!(of(r#","confirmations":2"#), mined(None, None));
    assert!(of(r#","error":"node is \u001b[31mdown""#).unwrap_err().ends_with("node is [31mdown"));
    assert!(of(r#","blockhash":"00""#).is_err());
    for odd in ["[]", "null", "{}", &format!(r#"[{{"txid":"{BLOCK}"}}]"#)] {
        assert!(standing(odd.as_bytes(), &id()).is_err(), "{odd}");
    }
}

#[test]
fn what_spends_an_output() {
    let json = format!(r#"{{"txid":"{COINBASE_ID}","vin":0,"status":"confirmed"}}"#);
    assert_eq!(spent(json.as_bytes()), Ok((id(), false)));
    assert_eq!(spent(json.replace("confirmed", "unconfirmed").as_bytes()), Ok((id(), true)));
    assert!(spent(b"{}").is_err());
}

#[test]
fn unspent_outputs_without_those_that_are_being_spent() {
    let json = format!(
        r#"{{"script":"b3","result":[
            {{"height":861936,"tx_pos":1,"tx_hash":"{COINBASE_ID}","value":100,"isSpentInMempoolTx":false,"status":"confirmed"}},
            {{"height":861936,"tx_pos":2,"tx_hash":"{COINBASE_ID}","value":100,"isSpentInMempoolTx":true,"status":"confirmed"}},
            {{"tx_pos":3,"tx_hash":"{COINBASE_ID}","value":98,"isSpentInMempoolTx":false,"hex":"76","status":"unconfirmed"}},
            {{"height":0,"tx_pos":4,"tx_hash":"{COINBASE_ID}","value":97,"status":"unconfirmed"}}
        ],"error":"","nextPageToken":"a/b +é"}}"#
    );
    let (outputs, token) = unspent(json.as_bytes()).unwrap();
    let short: Vec<_> = outputs.iter().map(|u| (u.outpoint.vout, u.value.as_u64(), u.height)).collect();
    assert_eq!(short, [(1, 100, Some(861_936)), (3, 98, None), (4, 97, None)]);
    assert_eq!(token.as_deref(), Some("a%2Fb%20%2B%C3%A9"));
    let list = format!(r#"[{{"height":1,"tx_pos":1,"tx_hash":"{COINBASE_ID}","value":1}}]"#);
    assert_eq!(unspent(list.as_bytes()).unwrap().0.len(), 1);
    assert_eq!(unspent(br#"{"result":null,"error":""}"#), Ok((vec![], None)));
    assert!(unspent(br#"{"result":[],"error":"backend is down"}"#).unwrap_err().contains("backend is down"));
    for odd in [
        list.replace("\"value\":1", "\"value\":2100000000000001"),
        list.replace("\"value\":1", "\"value\":-1"),
        list.replace("\"tx_pos\":1", "\"tx_pos\":4294967296"),
        format!(r#"{{"result":[],"nextPageToken":"{}"}}"#, "x".repeat(2000)),
    ] {
        assert!(unspent(odd.as_bytes()).is_err(), "{odd}");
    }
}

#[test]
fn whether_a_script_was_used() {
    assert_eq!(used(b"true\n"), Ok(true));
    assert_eq!(used(b"false"), Ok(false));
    assert!(used(b"1").is_err());
}
