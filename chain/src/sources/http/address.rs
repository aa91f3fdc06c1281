//! The address of a service, as it was configured.
//!
//! No error repeats it: there may be a password in it.

use reqwest::Url;

/// Parses `chain.services.url`. Name and password may be in it; nothing may follow after the path.
pub(super) fn parse(text: &str) -> Result<Url, String> {
    let url = Url::parse(text.trim()).map_err(|e| {
        format!("chain.services.url cannot be read ({e}); write it like https://HOST or https://HOST/PATH")
    })?;
    match url.scheme() {
        "http" | "https" => {}
        // The scheme of `user:password@host` is `user`, which is nobody's business either.
        _ => return Err("chain.services.url must begin with http:// or https://".into()),
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(
            "chain.services.url names no host; write it like https://HOST or https://HOST/PATH".into()
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(
            "chain.services.url has something after its path (? or #), which is no part of a base address; leave it out"
                .into(),
        );
    }
    Ok(url)
}

/// A part of an address as it was before it was written there.
pub(super) fn percent_decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let coded = after.get(..2).filter(|_| *first == b'%').and_then(|digits| hex::decode(digits).ok());
        match coded.as_deref() {
            Some([byte]) => {
                out.push(*byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_with_percent_signs_is_read() {
        for (coded, plain) in
            [("a%40b%c3%A9", "a@b\u{e9}"), ("", ""), ("%", "%"), ("%4", "%4"), ("100%!!", "100%!!")]
        {
            assert_eq!(percent_decoded(coded), plain);
        }
    }

    #[test]
    fn addresses_of_services_are_read() {
        for good in
            ["http://127.0.0.1:8332", "https://user:pass@node.example/", "HTTPS://api.example/v1/bsv/main"]
        {
            assert!(parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for bad in [
            "",
            "secret",
            "secret:8332",
            "user:secret@host",
            "http://user:secret@",
            "http://",
            "ftp://user:secret@host",
            "file:///secret",
            "http://user:secret@ho st/",
            "http://user:secret@host:99999",
            "https://host/?key=secret",
            "https://host/#secret",
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains("chain.services.url"), "{bad}: {error}");
            assert!(!error.contains("secret"), "{bad}: {error}");
        }
    }
}
