//! The configuration: what is written, what is refused, and whether the error helps.

use std::fs;

use sensora_chain::sources::service::{Need, ServiceKind};
use sensora_chain::{Network, Satoshis};
use sensora_node::agent::source::{Replay, SourceSpec};
use sensora_node::config::{ChainSource, Config, ConfigError, DEFAULT_TEXT, Serve};
use sensora_node::fees::FeeLimits;

/// The default file with the `#` before each key taken away.
fn with_all_keys() -> String {
    let uncomment = |line: &str| {
        let key = line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        key.unwrap_or(line).to_owned() + "\n"
    };
    DEFAULT_TEXT.lines().map(uncomment).collect()
}

#[test]
fn the_default_file_says_what_the_defaults_are() {
    let default = Config::default();
    default.validate().unwrap();
    assert_eq!(Config::parse("").unwrap(), default);
    assert_eq!(Config::parse(&Config::default_toml()).unwrap(), default);
    let all = with_all_keys();
    assert_eq!(Config::parse(&all).unwrap(), default);
    assert_eq!(default.net.listen.len(), 2);

    // Every key there is stands in the file.
    let table: toml::Table = toml::from_str(&all).unwrap();
    let written: toml::Table = toml::from_str(&toml::to_string(&default).unwrap()).unwrap();
    assert_eq!(table, written);
}

#[test]
fn the_examples_in_the_default_file_are_valid() {
    let text: String = DEFAULT_TEXT
        .lines()
        .filter_map(|line| line.strip_prefix("#    "))
        .map(|line| line.to_owned() + "\n")
        .collect();
    let config = Config::parse(&text).unwrap();
    let kinds: Vec<_> = config.streams.iter().map(|stream| stream.source.kind()).collect();
    assert_eq!(kinds, ["host", "csv", "exec", "stdin", "sim"]);
    let services: Vec<_> = config.chain.services.iter().map(|service| service.name().to_owned()).collect();
    assert_eq!(services, ["node-rpc", "broadcaster", "explorer"]);
    let options = config.agent_options();
    let (general, own) = (&options.sources[0].terms, &options.sources[1].terms);
    assert_eq!((general.price.msat(), general.licence.as_str(), general.sample), (100, "CC-BY-4.0", 10));
    assert_eq!((own.price.msat(), own.licence.as_str(), own.sample), (250, "MIT", 3));
    assert_eq!(own.place.as_ref().map(|place| place.geohash.len()), Some(5));
    assert_eq!(own.cadence.map(|cadence| cadence.as_secs()), Some(300));

    // What is written by the program is read by it.
    assert_eq!(Config::parse(&toml::to_string(&config).unwrap()).unwrap(), config);
}

#[test]
fn keys_can_be_set_in_the_generated_file() {
    let set = [("", "network", "\"test\""), ("net", "mdns", "false"), ("buyer", "exposure_sat", "7")];
    let text = Config::default_toml_with(&set).unwrap();
    let config = Config::parse(&text).unwrap();
    assert_eq!((config.network, config.net.mdns), (Network::Test, false));
    assert_eq!(config.buyer.exposure_sat, Satoshis::from_sat(7));
    assert_eq!(text.lines().count(), DEFAULT_TEXT.lines().count(), "nothing else changes");
    assert!(Config::default_toml_with(&[("net", "network", "\"test\"")]).is_err());
    assert!(Config::default_toml_with(&[("", "network", "\"moon\"")]).is_err());
}

#[test]
fn a_source_is_an_inline_table() {
    let text = r##"
        [[streams]]
        source = { kind = "csv", path = "a.csv", time = "#2", time_format = "%d.%m.%Y", zone = "+02:00", delimiter = "tab", replay = "faster=60", bad_rows = "stop", header = "no", null = ["-"] }
    "##;
    let config = Config::parse(text).unwrap();
    let SourceSpec::Csv(spec) = &config.streams[0].source else { panic!("{config:?}") };
    assert_eq!(spec.replay, Replay::Paced(60.0));
    assert_eq!(Config::parse(&toml::to_string(&config).unwrap()).unwrap(), config);
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_one_that_was_meant() {
    let cases = [
        ("netwrok = \"test\"", 1, "netwrok", "network"),
        ("\n[net]\n\nmdsn = true\n", 4, "mdsn", "mdns"),
        ("[buyer]\n# exposure\nexposure = 5\nmax_price_sat = 1\n", 3, "exposure", "exposure_sat"),
        ("[agent]\nlicense = \"MIT\"\n", 2, "license", "licence"),
        ("[[streams]]\nsource = { kind = \"host\" }\nprice = 3\n", 3, "price", "price_msat"),
        ("[[streams]]\nname = \"a\"\nsource = { kind = \"csv\", pth = \"x\" }\n", 3, "pth", "path"),
        (
            "[[streams]]\nsource = { kind = \"host\" }\n[[streams]]\nname = \"intervall\"\nsource = { kind = \"host\", intervall = 3 }\n",
            5,
            "intervall",
            "interval_ms",
        ),
        ("[strems]\n", 1, "strems", "streams"),
    ];
    for (text, line, wrong, meant) in cases {
        let error = Config::parse(text).unwrap_err();
        let ConfigError::UnknownKey { place, key, nearest, .. } = &error else { panic!("{text}: {error}") };
        assert_eq!(
            (place.line, key.as_str(), nearest.as_deref()),
            (Some(line), wrong, Some(meant)),
            "{text}"
        );
        let said = error.to_string();
        assert!(
            said.contains(&format!("line {line}")) && said.contains(&format!("did you mean `{meant}`")),
            "{said}"
        );
    }
}

#[test]
fn a_wrong_value_is_named_with_what_it_may_be() {
    let cases = [
        ("network = \"tets\"", "did you mean `test`"),
        ("network = 3", "line 1"),
        ("[net]\nlisten = [\"0.0.0.0:80\"]", "line 2"),
        ("[net]\nmdns = \"yes\"", "line 2"),
        ("[chain]\nsource = \"dve\"", "did you mean `dev`"),
        ("network = \"main\"\n[chain]\nsource = \"dev\"", "regtest"),
        ("[chain]\nfee_floor_sat_per_kb = 0", "fee_floor_sat_per_kb"),
        ("[chain]\nfee_cap_sat_per_kb = 99", "at least fee_floor_sat_per_kb, which is 100"),
        ("[chain]\nfee_cap_sat_per_kb = 1000001", "fee_cap_sat_per_kb"),
        ("[chain]\nserve = \"yes\"", "true, false or"),
        ("[chain]\nsource = \"services\"", "none is there: add [[chain.services]], or give --chain KIND=URL"),
        ("[[chain.services]]\nkind = \"arc\"\nurl = \"https://a\"", "write source = \"services\""),
        (
            "[chain]\nsource = \"services\"\n[[chain.services]]\nkind = \"node\"\nurl = \"https://a\"",
            "node-rpc",
        ),
        (
            "[chain]\nsource = \"services\"\n[[chain.services]]\nkind = \"arc\"\nurl = \"arc.example.org\"",
            "begins with http:// or https://",
        ),
        (
            "[chain]\nsource = \"services\"\n[[chain.services]]\nkind = \"arc\"\nurl = \"https://a\"\nzmq = \"tcp://a:1\"",
            "only a node-rpc",
        ),
        (
            "[chain]\nsource = \"services\"\n[[chain.services]]\nkind = \"node-rpc\"\nurl = \"http://a\"\nzmq = \"a:1\"",
            "tcp://127.0.0.1:28332",
        ),
        (
            "[chain]\nsource = \"services\"\n[[chain.services]]\nname = \"a b\"\nkind = \"arc\"\nurl = \"https://a\"",
            "A-Z",
        ),
        (
            "[chain]\nsource = \"services\"\n[[chain.services]]\nkind = \"arc\"\nurl = \"https://a\"\ntimeout_s = 0",
            "timeout_s",
        ),
        (
            "[chain]\nsource = \"services\"\n[[chain.services]]\nkind = \"arc\"\nurl = \"https://a\"\nrequests_per_second = 0.0",
            "requests_per_second",
        ),
        (
            "[chain]\nsource = \"services\"\n[[chain.services]]\nkind = \"arc\"\nurl = \"https://a\"\n[[chain.services]]\nkind = \"arc\"\nurl = \"https://b\"",
            "`arc` is the name of another service",
        ),
        (
            "[chain]\nsource = \"services\"\n[chain.order]\nfees = [\"taal\"]\n[[chain.services]]\nkind = \"arc\"\nurl = \"https://a\"",
            "`taal` is the name of no service; there are arc",
        ),
        (
            "[chain]\nsource = \"services\"\n[chain.order]\nblocks = [\"arc\"]\n[[chain.services]]\nkind = \"arc\"\nurl = \"https://a\"",
            "cannot be asked for blocks",
        ),
        (
            "[chain]\nsource = \"services\"\n[chain.order]\nfees = [\"arc\", \"arc\"]\n[[chain.services]]\nkind = \"arc\"\nurl = \"https://a\"",
            "twice",
        ),
        ("[wallet]\nsweep_to = \"1BoatSLRHtKNngkdXEeobR76b53LETtpyT\"", "sweep_to"),
        ("[wallet]\nsweep_to = \"somewhere\"", "sweep_to"),
        ("[chain]\nblock_interval_s = 0", "block_interval_s"),
        ("[agent]\nprice_msat = 0", "price"),
        ("[agent]\nprice_msat = -1", "line 2"),
        ("[agent]\nlicence = \"CC-BY-4\"", "did you mean `CC-BY-4.0`"),
        ("[agent]\nplace = \"91,0\"", "-90 to 90"),
        ("[agent]\nplace = \"somewhere\"", "geohash"),
        ("[agent]\nname = \"a\\u001bb\"", "control character"),
        ("[agent]\nmax_readings = 0", "max_readings"),
        ("[anchor]\nevery_s = 0", "every_s"),
        ("[buyer]\nexposure_sat = 2100000000000001", "line 2"),
        ("log = \"\"", "log"),
        ("[[streams]]\nname = \"x\"", "source"),
        ("[[streams]]\nsource = { kind = \"cvs\", path = \"x\" }", "did you mean `csv`"),
        ("[[streams]]\nsource = { kind = \"csv\", path = \"\" }", "path"),
        ("[[streams]]\nsource = { kind = \"csv\", path = \"x\", zone = \"Mars\" }", "Mars"),
        (
            "[[streams]]\nsource = { kind = \"csv\", path = \"x\", columns = [\"t:flaot\"] }",
            "float, int, bool or text",
        ),
        ("[[streams]]\nsource = { kind = \"exec\", command = [] }", "command"),
        ("[[streams]]\nsource = { kind = \"host\", interval_ms = 1 }", "interval_ms"),
        ("[[streams]]\nname = \"a b\"\nsource = { kind = \"host\" }", "A-Z"),
        ("[[streams]]\nkinds = [\"Temp\"]\nsource = { kind = \"host\" }", "kinds"),
        ("[[streams]]\ncadence_ms = 0\nsource = { kind = \"host\" }", "cadence_ms"),
        ("[[streams]]\nlicence = \"mine\"\nsource = { kind = \"host\" }", "streams 1"),
        (
            "[[streams]]\nname = \"a\"\nsource = { kind = \"host\" }\n[[streams]]\nname = \"a\"\nsource = { kind = \"stdin\" }",
            "another stream",
        ),
        ("[net", "line 1"),
        ("network = \"test\"\nnetwork = \"test\"", "line 2"),
    ];
    for (text, says) in cases {
        let said = Config::parse(text).unwrap_err().to_string();
        assert!(said.contains(says), "{text}\n{said}");
        assert!(!said.contains('\u{1b}') && !said.contains('\n'), "{said}");
    }
}

const SERVICES: &str = r#"
    network = "main"
    [chain]
    source = "services"
    serve = true
    [chain.order]
    proofs = ["second", "first"]
    [[chain.services]]
    name = "first"
    kind = "arc"
    url = "https://arc.example.org"
    key_env = "FIRST_KEY"
    requests_per_second = 2.5
    timeout_s = 7
    [[chain.services]]
    name = "second"
    kind = "node-rpc"
    url = "http://user:secret@127.0.0.1:8332"
    zmq = "tcp://127.0.0.1:28332"
    [wallet]
    sweep_to = "1BoatSLRHtKNngkdXEeobR76b53LETtpyT"
    keep_sat = 5000
"#;

#[test]
fn services_get_their_keys_from_the_environment_and_show_no_secret() {
    let config = Config::parse(SERVICES).unwrap();
    let unset = config.chain.services(config.network, |_| None).unwrap_err().to_string();
    assert!(unset.contains("FIRST_KEY") && unset.contains("chain.services 1"), "{unset}");
    let env = |name: &str| (name == "FIRST_KEY").then(|| "key of the first".to_owned());
    let options = config.chain.services(config.network, env).unwrap();
    let (first, second) = (&options.services[0], &options.services[1]);
    assert_eq!((first.name.as_str(), first.kind, first.network), ("first", ServiceKind::Arc, Network::Main));
    assert_eq!(first.key.as_deref(), Some("key of the first"));
    assert_eq!((first.requests_per_second, first.timeout.as_secs()), (Some(2.5), 7));
    assert_eq!((second.zmq.as_deref(), second.key.as_deref()), (Some("tcp://127.0.0.1:28332"), None));
    let order: Vec<_> = options.order.into_iter().collect();
    assert_eq!(order, [(Need::Proofs, vec!["second".to_owned(), "first".to_owned()])]);
    let shown = format!("{config:?}");
    assert!(!shown.contains("secret"), "{shown}");
    assert!(config.chain.serve.on(Network::Main) && !Serve::Auto.on(Network::Main));
    assert!(Serve::Auto.on(Network::Regtest) && !Serve::Is(false).on(Network::Regtest));
    assert_eq!(Config::parse(&toml::to_string(&config).unwrap()).unwrap(), config);
    assert!(config.wallet.sweep_to(Network::Main).unwrap().is_some());
    assert!(config.wallet.sweep_to(Network::Test).is_err(), "an address of another network");
    assert_eq!(config.chain.fees(), FeeLimits::default());
}

#[test]
fn services_of_the_command_line_replace_those_of_the_file() {
    let mut config = Config::parse(SERVICES).unwrap();
    let texts = ["arc=https://arc.example.org", "arc=https://other.example.org", "node-rpc=http://u:p@h:1"];
    config.chain.use_services(&texts.map(String::from)).unwrap();
    config.validate().unwrap();
    let names: Vec<_> = config.chain.services.iter().map(|service| service.name().to_owned()).collect();
    assert_eq!(names, ["first", "arc", "node-rpc"]);
    assert_eq!(
        config.chain.services[0].key_env.as_deref(),
        Some("FIRST_KEY"),
        "the same service keeps its key"
    );
    assert_eq!(config.chain.source, ChainSource::Services);
    config.chain.use_services(&["arc=https://a".to_owned(), "arc=https://b".to_owned()]).unwrap();
    let names: Vec<_> = config.chain.services.iter().map(|service| service.name().to_owned()).collect();
    assert_eq!(names, ["arc", "arc-2"]);
    for (wrong, says) in [
        ("arc", "KIND=URL"),
        ("moon=https://a", "no kind of chain service"),
        ("arc=a.example.org", "http:// or https://"),
        ("node-rpc=", "USER:PASSWORD@"),
    ] {
        let said = config.chain.use_services(&[wrong.to_owned()]).unwrap_err().to_string();
        assert!(said.contains("--chain") && said.contains(says), "{said}");
    }
}

#[test]
fn a_file_is_read_named_in_errors_and_not_needed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    assert_eq!(Config::load(&path).unwrap(), Config::default());
    fs::write(&path, "[chain]\nsource = \"dev\"\n").unwrap();
    assert_eq!(Config::load(&path).unwrap().chain.source, ChainSource::Dev);
    for wrong in ["[chain]\nsorce = \"dev\"\n", "[chain]\nsource = 1", "[chain]\nfee_floor_sat_per_kb = 0"] {
        fs::write(&path, wrong).unwrap();
        let said = Config::load(&path).unwrap_err().to_string();
        assert!(said.contains(&path.display().to_string()), "{said}");
    }
    fs::write(&path, [0xff, 0xfe, 0]).unwrap();
    assert!(matches!(Config::load(&path), Err(ConfigError::Io { .. })));
    fs::write(&path, vec![b' '; 2 * 1024 * 1024]).unwrap();
    assert!(matches!(Config::load(&path), Err(ConfigError::TooLong { .. })));
    assert!(matches!(Config::load(directory.path()), Err(ConfigError::Io { .. })));
}
