//! Headers in runs.

use sensora_chain::BlockHash;
use sensora_chain::header::{Header, Tip};
use sensora_chain::sources::chaintracks::MAX_HEADERS;
use sensora_chain::sources::service::ServiceKind;

use super::server::{Reply, Server};
use super::service;

fn run(count: u32) -> Vec<u8> {
    (0..count).flat_map(|n| Header::new(1, BlockHash([1; 32]), [2; 32], n, 0x207f_ffff, n).0).collect()
}

#[tokio::test]
async fn tip_and_headers_of_the_documented_paths() {
    let hash = BlockHash([3; 32]);
    let server = Server::start(move |request| match request.path() {
        "/chaintracks/v2/tip" => Reply::json(format!(
            r#"{{"version":536870912,"prevHash":"{hash}","merkleRoot":"{hash}","time":1,"bits":1,"nonce":1,"height":7,"hash":"{hash}","chainWork":"00"}}"#
        )),
        "/chaintracks/v2/headers?height=5&count=3" => Reply::bytes(run(3)),
        // Above its tip there are none.
        "/chaintracks/v2/headers?height=8&count=3" => Reply::bytes([]),
        "/chaintracks/v2/headers?height=6&count=100" => Reply::bytes(run(2)),
        _ => Reply::status(404, r#"{"error":"not found"}"#),
    })
    .await;
    for url in
        [server.url.clone(), format!("{}/chaintracks", server.url), format!("{}/chaintracks/v2/", server.url)]
    {
        let service = service(ServiceKind::Chaintracks, &url);
        assert_eq!(service.tip().await, Ok(Tip { height: 7, hash }));
        assert_eq!(service.headers(5, 3).await.unwrap(), Header::parse_run(&run(3)).unwrap());
        assert_eq!(service.headers(8, 3).await, Ok(vec![]));
        assert_eq!(service.headers(6, 100).await.unwrap().len(), 2);
        assert_eq!(service.headers(6, 0).await, Ok(vec![]));
        assert_eq!(service.headers(1, 1).await.unwrap_err().label(), "server");
    }
}

#[tokio::test]
async fn a_run_is_whole_and_not_longer_than_asked_for() {
    for (body, label) in
        [(run(3)[1..].to_vec(), "malformed"), (run(4), "too_large"), (vec![0; 80 * 3 - 79], "malformed")]
    {
        let server = Server::always(Reply::bytes(body)).await;
        let error = service(ServiceKind::Chaintracks, &server.url).headers(0, 3).await.unwrap_err();
        assert_eq!(error.label(), label, "{error}");
    }
    // A text as long as a run of headers is none.
    let server = Server::always(Reply::json("x".repeat(160))).await;
    let error = service(ServiceKind::Chaintracks, &server.url).headers(0, 3).await.unwrap_err();
    assert_eq!(error.label(), "malformed");
}

#[tokio::test]
async fn one_question_asks_for_a_bounded_run() {
    let server = Server::always(Reply::bytes(run(MAX_HEADERS as u32))).await;
    let service = service(ServiceKind::Chaintracks, &server.url);
    assert_eq!(service.headers(1, usize::MAX).await.unwrap().len(), MAX_HEADERS);
    assert_eq!(server.lines(), [format!("GET /chaintracks/v2/headers?height=1&count={MAX_HEADERS}")]);
}
