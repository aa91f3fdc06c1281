//! Every question to every kind of service, against everything that can go wrong with an answer: each has its typed
//! error, which names the service, comes by the deadline, and costs a bounded amount of memory.

use std::time::Duration;

use sensora_chain::sources::service::{Service, ServiceConfig, ServiceKind, SourceError};
use sensora_chain::{OutPoint, Script, Txid};

use super::server::{Reply, Server};
use super::{config, parent_and_child};

/// What is asked. Each comes to the first answer of the server, so that one kind of misbehaviour is enough.
#[derive(Clone, Copy, Debug)]
enum Question {
    Tip,
    Headers,
    Submit,
    Report,
    Transaction,
    Spender,
    Unspent,
    IsUsed,
    FeeQuote,
}

const QUESTIONS: &[(ServiceKind, &[Question])] = &[
    (ServiceKind::Arc, &[Question::Submit, Question::Report, Question::FeeQuote]),
    (ServiceKind::Arcade, &[Question::Submit, Question::Report, Question::FeeQuote]),
    (
        ServiceKind::WhatsOnChain,
        &[
            Question::Tip,
            Question::Headers,
            Question::Submit,
            Question::Report,
            Question::Transaction,
            Question::Spender,
            Question::Unspent,
            Question::IsUsed,
        ],
    ),
    (ServiceKind::Chaintracks, &[Question::Tip, Question::Headers]),
];

async fn ask(service: &Service, question: Question) -> Result<String, SourceError> {
    let (txid, script) = (Txid([9; 32]), Script::new(vec![0x51]));
    let outpoint = OutPoint { txid, vout: 0 };
    Ok(match question {
        Question::Tip => format!("{:?}", service.tip().await?),
        Question::Headers => format!("{:?}", service.headers(1, 100).await?),
        Question::Submit => format!("{:?}", service.submit(&parent_and_child()).await?),
        Question::Report => format!("{:?}", service.report(&txid).await?),
        Question::Transaction => format!("{:?}", service.transaction(&txid).await?),
        Question::Spender => format!("{:?}", service.spender(&outpoint).await?),
        Question::Unspent => format!("{:?}", service.unspent(&script).await?),
        Question::IsUsed => format!("{:?}", service.is_used(&script).await?),
        Question::FeeQuote => format!("{:?}", service.fee_quote().await?),
    })
}

/// Asks everything of a server that always answers like this, and says what came out where.
async fn ask_all(
    server: &Server,
    change: impl Fn(&mut ServiceConfig),
    check: impl Fn(Question, &SourceError),
) -> usize {
    let mut asked = 0;
    for (kind, questions) in QUESTIONS {
        for question in *questions {
            let mut config = config(*kind, &server.url);
            change(&mut config);
            // A client for each, because some errors are remembered.
            let service = Service::new(config).unwrap();
            match ask(&service, *question).await {
                Ok(answer) => panic!("{kind} {question:?}: {answer}"),
                Err(error) => {
                    assert_eq!(error.service(), "the-service");
                    assert!(error.to_string().contains("the-service"), "{error}");
                    assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
                    assert!(error.to_string().len() < 1200, "{error}");
                    check(*question, &error);
                }
            }
            asked += 1;
        }
    }
    asked
}

async fn all_are(reply: Reply, label: &str) {
    let server = Server::always(reply.clone()).await;
    let asked = ask_all(
        &server,
        |_| {},
        |question, error| assert_eq!(error.label(), label, "{question:?} {reply:?}: {error:?}"),
    )
    .await;
    assert_eq!(asked, 16);
}

#[tokio::test]
async fn no_answer_ends_by_the_deadline() {
    for reply in [Reply::Silent, Reply::Drip] {
        let server = Server::always(reply).await;
        let short = Duration::from_millis(50);
        let check = |question, error: &SourceError| {
            let expected = SourceError::Timeout { service: "the-service".into(), after: short };
            assert_eq!(*error, expected, "{question:?}");
        };
        ask_all(&server, |config| config.timeout = short, check).await;
    }
}

#[tokio::test]
async fn nobody_there_is_said_so() {
    let server = Server::always(Reply::Silent).await;
    let free_port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let change = |config: &mut ServiceConfig| config.url.clone_from(&free_port);
    ask_all(&server, change, |_, error| assert_eq!(error.label(), "unreachable", "{error:?}")).await;
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_connection_that_ends_early_is_no_answer() {
    all_are(Reply::Reset, "unreachable").await;
    // Headers without end are given up at some length.
    let head = format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(1_000_000));
    all_are(Reply::Raw(head.into_bytes()), "unreachable").await;
    for raw in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"txid\":",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n50\r\n{\"txid\":",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n",
    ] {
        all_are(Reply::Raw(raw.into()), "unreachable").await;
    }
}

#[tokio::test]
async fn failures_of_the_server_are_told_with_its_words() {
    for status in [500, 502, 503, 504, 418, 409, 422] {
        let server = Server::always(Reply::status(status, "the \u{1b}[31mdatabase\r\n is gone")).await;
        let check = |question, error: &SourceError| match error {
            SourceError::Server { status: found, reason, .. } => {
                assert_eq!((*found, reason.as_str()), (i64::from(status), "the [31mdatabase is gone"));
            }
            other => panic!("{question:?}: {other:?}"),
        };
        ask_all(&server, |_| {}, check).await;
    }
}

#[tokio::test]
async fn access_that_is_refused_asks_for_a_key() {
    for status in [401, 403] {
        let server = Server::always(Reply::status(status, r#"{"title":"Unauthorized"}"#)).await;
        let check = |_, error: &SourceError| {
            assert_eq!(*error, SourceError::Unauthorized { service: "the-service".into(), status });
            assert!(error.to_string().contains("chain.services.key_env"));
        };
        ask_all(&server, |_| {}, check).await;
    }
}

#[tokio::test]
async fn limits_of_the_server_are_kept_for_as_long_as_it_says() {
    for (reply, seconds) in [
        (Reply::status(429, "slow down").with("retry-after: 7"), 7),
        (Reply::status(429, "slow down"), 2),
        (Reply::status(429, "slow down").with("retry-after: -5"), 2),
        (Reply::status(429, "slow down").with("retry-after: 99999999999999999999"), 600),
        (Reply::status(503, "busy").with("retry-after: 0"), 1),
        (
            Reply::status(503, "busy")
                .with("date: Sun, 06 Nov 1994 08:49:37 GMT")
                .with("retry-after: Sun, 06 Nov 1994 08:49:47 GMT"),
            10,
        ),
    ] {
        let server = Server::always(reply).await;
        let check = |_, error: &SourceError| {
            let retry_after = Duration::from_secs(seconds);
            assert_eq!(*error, SourceError::Limited { service: "the-service".into(), retry_after });
        };
        ask_all(&server, |_| {}, check).await;
    }
}

#[tokio::test]
async fn a_body_without_end_is_not_taken() {
    let server = Server::always(Reply::Endless { status: 200 }).await;
    let asked =
        ask_all(&server, |_| {}, |_, error| assert_eq!(error.label(), "too_large", "{error:?}")).await;
    // The largest answer that is taken has 8 MB; beyond the limits there is only what the system's buffers hold.
    assert!(server.sent() < asked * 16 * 1024 * 1024, "{} bytes", server.sent());

    // Of a refusal only the beginning is of interest.
    let server = Server::always(Reply::Endless { status: 500 }).await;
    let check = |_, error: &SourceError| match error {
        SourceError::Server { status: 500, reason, .. } => assert_eq!(*reason, "0".repeat(256)),
        other => panic!("{other:?}"),
    };
    ask_all(&server, |_| {}, check).await;
}

#[tokio::test]
async fn a_length_that_is_announced_too_large_is_not_waited_for() {
    for length in ["4000000000", "18446744073709551615"] {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        let server = Server::always(Reply::Raw(head.into_bytes())).await;
        let check = |_, error: &SourceError| {
            // What no length can be is not even an answer.
            assert!(matches!(error.label(), "too_large" | "unreachable"), "{error:?}");
        };
        ask_all(&server, |_| {}, check).await;
    }
}

#[tokio::test]
async fn what_is_compressed_stays_so() {
    // Two kilobytes that would become two megabytes.
    let bomb = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0].repeat(256);
    for encoding in ["gzip", "br", "zstd", "deflate"] {
        let reply = Reply::bytes(bomb.clone()).with(&format!("content-encoding: {encoding}"));
        all_are(reply, "malformed").await;
    }
    // Without saying so, as headers, it is no run of whole ones.
    all_are(Reply::bytes(&bomb[..2047]), "malformed").await;
}

#[tokio::test]
async fn what_is_not_of_the_protocol_is_malformed() {
    let html = "<!doctype html><title>Welcome to nginx!</title>";
    let page = Reply::Full { status: 200, headers: "content-type: text/html\r\n".into(), body: html.into() };
    all_are(page, "malformed").await;
    // Short enough for every question, and far deeper than anything that is meant.
    for body in [
        String::new(),
        "not json".into(),
        "{".into(),
        "{}".into(),
        "[]".into(),
        r#"{"txid":7}"#.into(),
        "[".repeat(7_000),
        r#"{"a":"#.repeat(1_000),
        format!("{}{}", "[".repeat(3_000), "]".repeat(3_000)),
        "\u{0}\u{0}\u{0}".into(),
    ] {
        let reply = Reply::json(body);
        let server = Server::always(reply.clone()).await;
        let check = |question, error: &SourceError| {
            assert_eq!(error.label(), "malformed", "{question:?} {reply:?}: {error:?}");
        };
        // An empty list is a good answer to a question for outputs.
        for (kind, questions) in QUESTIONS {
            for question in *questions {
                let service = super::service(*kind, &server.url);
                match ask(&service, *question).await {
                    Err(error) => check(*question, &error),
                    Ok(answer) => {
                        assert!(matches!(question, Question::Unspent), "{question:?}");
                        assert_eq!(answer, "[]");
                    }
                }
            }
        }
    }
    all_are(Reply::bytes([0xff; 81]), "malformed").await;
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = Server::always(Reply::json("{}")).await;
    for status in [301, 302, 303, 307, 308] {
        let reply = Reply::status(status, "").with(&format!("location: {}/elsewhere", other.url));
        let server = Server::always(reply).await;
        let check = |_, error: &SourceError| {
            assert_eq!(error.label(), "server");
            assert!(error.to_string().contains(&other.url), "{error}");
            assert!(error.to_string().contains("chain.services.url"), "{error}");
        };
        ask_all(&server, |_| {}, check).await;
    }
    assert!(other.seen().is_empty());
}
