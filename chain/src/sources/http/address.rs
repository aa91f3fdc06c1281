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

#[cfg(test)]
mod tests {
    use super::*;

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
