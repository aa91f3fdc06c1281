//! Nobody is asked more often than he allows.

use std::time::Duration;

use sensora_chain::Txid;
use sensora_chain::sources::service::{Report, Service, ServiceKind, SourceError};

use super::config;
use super::server::{Reply, Server};

const TXID: Txid = Txid([7; 32]);

#[tokio::test]
async fn our_own_limit_holds_requests_back() {
    let server = Server::always(Reply::status(404, "")).await;
    let mut config = config(ServiceKind::Arcade, &server.url);
    config.requests_per_second = Some(0.01);
    let service = Service::new(config).unwrap();
    assert_eq!(service.report(&TXID).await, Ok(Report::Unknown));
    // The next turn is further away than any answer may take, so it is not waited for.
    for _ in 0..3 {
        assert!(matches!(service.report(&TXID).await, Err(SourceError::Limited { .. })));
    }
    assert_eq!(server.lines().len(), 1);
}

#[tokio::test]
async fn a_turn_that_comes_in_time_is_waited_for() {
    let server = Server::always(Reply::status(404, "")).await;
    let mut config = config(ServiceKind::Arcade, &server.url);
    config.requests_per_second = Some(50.0);
    let service = Service::new(config).unwrap();
    let (a, b, c) = tokio::join!(service.report(&TXID), service.report(&TXID), service.report(&TXID));
    assert_eq!([a, b, c], [const { Ok(Report::Unknown) }; 3]);
    assert_eq!(server.lines().len(), 3);
}

#[tokio::test]
async fn a_service_that_asks_for_rest_is_left_alone() {
    for status in [429, 503] {
        let server = Server::always(Reply::status(status, "").with("retry-after: 300")).await;
        let service = super::service(ServiceKind::Arc, &server.url);
        for _ in 0..3 {
            match service.report(&TXID).await {
                Err(SourceError::Limited { retry_after, .. }) => {
                    assert!(retry_after <= Duration::from_secs(300));
                }
                other => panic!("{other:?}"),
            }
            assert!(matches!(service.fee_quote().await, Err(SourceError::Limited { .. })));
        }
        assert_eq!(server.lines(), [format!("GET /v1/tx/{TXID}")]);
    }
}

#[test]
fn a_pace_that_cannot_be_kept_is_refused() {
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
        let mut config = config(ServiceKind::Arc, "http://127.0.0.1:1");
        config.requests_per_second = Some(rate);
        let error = Service::new(config).unwrap_err();
        assert!(error.to_string().contains("requests_per_second"), "{error}");
    }
}
