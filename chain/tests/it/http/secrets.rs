//! The key, and name and password in the address, go to the service and nowhere else.

use sensora_chain::Txid;
use sensora_chain::sources::service::{Report, Service, ServiceKind, SourceError};

use super::config;
use super::server::{Reply, Server};

const KEY: &str = "mainnet_0123456789abcdef";
const TXID: Txid = Txid([7; 32]);

fn keyed(kind: ServiceKind, url: &str) -> Service {
    let mut config = config(kind, url);
    config.key = Some(format!("{KEY}\n"));
    Service::new(config).unwrap()
}

#[tokio::test]
async fn each_kind_gets_the_key_in_the_header_it_wants() {
    for (kind, expected) in [
        (ServiceKind::Arc, format!("Bearer {KEY}")),
        (ServiceKind::Arcade, format!("Bearer {KEY}")),
        (ServiceKind::WhatsOnChain, KEY.to_owned()),
        (ServiceKind::Chaintracks, format!("Bearer {KEY}")),
    ] {
        let server = Server::always(Reply::status(404, "")).await;
        let service = keyed(kind, &server.url);
        let _ = (service.report(&TXID).await, service.headers(0, 1).await);
        let seen = server.seen();
        assert!(!seen.is_empty());
        for request in seen {
            assert_eq!(request.header("authorization").as_deref(), Some(expected.as_str()));
            assert!(request.header("user-agent").unwrap().starts_with("sensora/"));
            assert_eq!(request.header("accept-encoding").as_deref(), Some("identity"));
            for unwanted in ["cookie", "referer"] {
                assert_eq!(request.header(unwanted), None);
            }
        }
    }
}

#[tokio::test]
async fn name_and_password_in_the_address_become_a_header() {
    let server = Server::always(Reply::status(404, "").with("set-cookie: a=b")).await;
    let url = server.url.replace("http://", "http://alice:wonder%40land@");
    let service = super::service(ServiceKind::Arcade, &url);
    for _ in 0..2 {
        assert_eq!(service.report(&TXID).await, Ok(Report::Unknown));
    }
    for request in server.seen() {
        // alice:wonder@land
        assert_eq!(request.header("authorization").unwrap(), "Basic YWxpY2U6d29uZGVyQGxhbmQ=");
        assert_eq!(request.header("cookie"), None);
        assert!(!request.header("host").unwrap().contains("alice"));
        assert_eq!(request.path(), format!("/tx/{TXID}"));
    }
}

/// Whatever goes wrong, also where a server repeats what it was sent.
#[tokio::test]
async fn no_error_and_no_debug_text_has_a_secret() {
    // alice:wonder@land, in the form in which it travels.
    let echo =
        format!("bad header: Bearer {KEY} Basic YWxpY2U6d29uZGVyQGxhbmQ= wonder@land wonder%40land \u{200b}");
    let long = format!("{}{KEY}", "x".repeat(250));
    let hidden = KEY.replace('_', "_\u{200b}");
    for reply in [
        Reply::Raw(Vec::new()),
        Reply::status(401, echo.clone()),
        Reply::status(500, echo.clone()),
        Reply::status(500, long),
        Reply::status(500, hidden),
        Reply::json(echo.clone()),
        Reply::json(format!(r#"{{"txid":"{KEY}","txStatus":"MINED"}}"#)),
        Reply::json(format!(r#"{{"txid":"{TXID}","txStatus":"REJECTED","extraInfo":"{KEY} wonder@land"}}"#)),
        Reply::status(302, "").with(&format!("location: http://elsewhere/?{KEY}&wonder%40land")),
        Reply::status(429, echo),
    ] {
        let server = Server::always(reply).await;
        let with_user = server.url.replace("http://", "http://alice:wonder%40land@");
        for service in [
            keyed(ServiceKind::Arc, &server.url),
            keyed(ServiceKind::WhatsOnChain, &server.url),
            super::service(ServiceKind::Arc, &with_user),
        ] {
            let secrets = match service.config().key {
                Some(_) => vec![&KEY[10..]],
                None => vec!["YWxp", "wonder"],
            };
            let mut texts = vec![format!("{service:?}"), format!("{:?}", service.config())];
            match service.report(&TXID).await {
                Ok(report) => texts.push(format!("{report:?}")),
                Err(error) => texts.extend([error.to_string(), format!("{error:?}")]),
            }
            for text in texts {
                assert!(secrets.iter().all(|secret| !text.contains(secret)), "{text}");
            }
        }
    }
}

#[test]
fn what_cannot_be_used_is_refused_before_anything_is_sent() {
    let refused = |kind, url: &str, key: Option<&str>| {
        let mut config = config(kind, url);
        config.key = key.map(Into::into);
        match Service::new(config).unwrap_err() {
            SourceError::Config { service, reason } => {
                assert_eq!(service, "the-service");
                assert!(!reason.contains("s3cret"), "{reason}");
                reason
            }
            other => panic!("{other:?}"),
        }
    };
    for kind in [ServiceKind::Arc, ServiceKind::Arcade, ServiceKind::WhatsOnChain, ServiceKind::Chaintracks] {
        for url in
            ["", "arc.example", "ftp://arc.example", "http://", "https://u:s3cret@", "http://x/?s3cret"]
        {
            assert!(refused(kind, url, None).contains("chain.services.url"), "{url}");
        }
        assert!(refused(kind, "http://x/", Some("s3cret\u{7f}key")).contains("chain.services.key_env"));
        assert!(refused(kind, "http://u:s3cret@x/", Some("s3cret")).contains("leave one out"));
        let mut config = config(kind, "http://x/");
        config.timeout = std::time::Duration::ZERO;
        assert!(Service::new(config).unwrap_err().to_string().contains("timeout_s"));
    }
    assert!(refused(ServiceKind::Arcade, "https://x/v1", None).contains("kind = \"arc\""));
    let woc = "https://api.whatsonchain.com/v1/bsv";
    for (url, wanted) in [(format!("{woc}/test"), "--network test"), (format!("{woc}/stn/"), "stn")] {
        assert!(refused(ServiceKind::WhatsOnChain, &url, None).contains(wanted), "{url}");
    }
    assert!(refused(ServiceKind::WhatsOnChain, "https://api.whatsonchain.com", None).contains("/main"));
    for good in [format!("{woc}/main"), format!("{woc}/main/")] {
        assert!(Service::new(config(ServiceKind::WhatsOnChain, &good)).is_ok(), "{good}");
    }
}
