//! Claims about where releases come from: servers that break off, refuse to go on, compress unasked, proxies, and addresses as people type them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use swr_runtime::Models;

use crate::release::{pull, release, text};

/// What was asked for: the words of the first line, and the first byte of a range.
#[derive(Clone, Debug)]
struct Request {
    target: String,
    from: Option<usize>,
}

type Log = Arc<Mutex<Vec<Request>>>;

/// Serves over HTTP what `answer` makes of the number of a request and the request; gives the address and what was asked for.
fn serve(answer: impl Fn(usize, &Request) -> Vec<u8> + Send + 'static) -> (String, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let log = Log::default();
    let asked = Arc::clone(&log);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut request = Request {
                target: String::new(),
                from: None,
            };
            let reader = BufReader::new(stream.try_clone().unwrap());
            for (place, line) in reader.lines().map_while(Result::ok).enumerate() {
                if place == 0 {
                    let mut words = line.split_whitespace();
                    assert_eq!(words.next(), Some("GET"), "{line}");
                    request.target = words.next().unwrap_or("/").to_owned();
                }
                if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
                    request.from = range.trim_end_matches('-').parse().ok();
                }
                if line.is_empty() {
                    break;
                }
            }
            asked.lock().unwrap().push(request.clone());
            let _ = stream.write_all(&answer(number, &request));
        }
    });
    (address, log)
}

fn answer(status: &str, headers: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// The file of `directory` that is asked for, from the byte asked for; below any folder.
fn file(directory: &Path, request: &Request) -> Vec<u8> {
    let name = request.target.rsplit('/').next().unwrap_or_default();
    let Ok(bytes) = fs::read(directory.join(name)) else {
        return answer("404 Not Found", "", 0, b"");
    };
    match request.from {
        None => answer("200 OK", "", bytes.len(), &bytes),
        Some(from) => {
            let range = format!(
                "Content-Range: bytes {from}-{}/{}\r\n",
                bytes.len() - 1,
                bytes.len()
            );
            let rest = &bytes[from..];
            answer("206 Partial Content", &range, rest.len(), rest)
        }
    }
}

/// A folder for models, and the release's files.
fn places() -> (tempfile::TempDir, tempfile::TempDir, PathBuf) {
    let (source, target) = (release(3), tempfile::tempdir().unwrap());
    let installed = target.path().join("models");
    (source, target, installed)
}

fn works(installed: &Path) -> bool {
    Models::open(installed).is_ok_and(|models| models.load("de").is_ok())
}

#[test]
fn a_pull_over_http_goes_on_where_it_broke_off() {
    let (source, _target, installed) = places();
    let directory = source.path().to_path_buf();
    // Answers: the index, base.json, base.onnx, which breaks off. What came before is kept as well.
    let (address, asked) = serve(move |number, request| {
        let mut whole = file(&directory, request);
        if number == 2 {
            whole.truncate(whole.len() / 2);
        }
        whole
    });
    assert_eq!(pull(&address, &installed, &[]), 2);
    assert!(
        !installed.join("base.json").exists(),
        "half a release is in place"
    );
    assert_eq!(pull(&address, &installed, &[]), 0);
    assert!(works(&installed));
    // The half that was there did not come again, and base.json, which was whole, was not asked for.
    let asked = asked.lock().unwrap().clone();
    let again: Vec<_> = asked[3..]
        .iter()
        .map(|request| (&*request.target, request.from))
        .collect();
    assert!(
        matches!(
            again[..],
            [
                ("/index.json", None),
                ("/base.onnx", Some(1..)),
                ("/de.swr", None)
            ]
        ),
        "{again:?}"
    );
    assert_eq!(pull("http://127.0.0.1:9", &installed, &[]), 2);
    assert_eq!(
        pull(
            &format!("{address}/nowhere/of/it"),
            &installed,
            &["--lang", "fr"]
        ),
        2
    );
}

/// A server that will not go on, one that goes on from elsewhere, and one that begins anew unasked.
#[test]
fn what_cannot_go_on_begins_anew() {
    for kind in 0..3 {
        let (source, _target, installed) = places();
        let directory = source.path().to_path_buf();
        let (address, asked) = serve(move |number, request| {
            let anew = Request {
                from: None,
                ..request.clone()
            };
            let mut whole = file(&directory, &anew);
            if number == 2 {
                whole.truncate(whole.len() / 2);
            }
            match (request.from, kind) {
                (Some(_), 0) => answer("416 Range Not Satisfiable", "", 0, b""),
                (Some(from), 1) => file(
                    &directory,
                    &Request {
                        from: Some(from + 1),
                        ..anew
                    },
                ),
                _ => whole,
            }
        });
        assert_eq!(pull(&address, &installed, &[]), 2);
        assert_eq!(pull(&address, &installed, &[]), 0, "kind {kind}");
        assert!(works(&installed), "kind {kind}");
        assert!(
            asked
                .lock()
                .unwrap()
                .iter()
                .any(|request| request.from.is_some())
        );
    }
}

/// `bytes` as gzip holds them without compressing: stored blocks (RFC 1951, section 3.2.4) and the trailer of RFC 1952.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    let blocks = bytes.chunks(60_000);
    let last = blocks.len() - 1;
    for (place, block) in blocks.enumerate() {
        let length = block.len() as u16;
        packed.push(u8::from(place == last));
        packed.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
        packed.extend(block);
    }
    let mut sum = !0u32;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = sum >> 1 ^ if sum & 1 == 1 { 0xEDB8_8320 } else { 0 };
        }
    }
    packed.extend([(!sum).to_le_bytes(), (bytes.len() as u32).to_le_bytes()].concat());
    packed
}

#[test]
fn an_answer_that_is_compressed_unasked_is_read() {
    let (source, _target, installed) = places();
    let directory = source.path().to_path_buf();
    let (address, _) = serve(move |_, request| {
        let bytes = fs::read(directory.join(&request.target[1..])).unwrap();
        let packed = gzip(&bytes);
        answer(
            "200 OK",
            "Content-Encoding: gzip\r\n",
            packed.len(),
            &packed,
        )
    });
    assert_eq!(pull(&address, &installed, &[]), 0);
    assert!(works(&installed));
}

/// The proxy is asked for the whole address, and for no tunnel: many allow one to port 443 only.
#[test]
fn plain_http_goes_through_a_proxy_as_get() {
    let (source, _target, installed) = places();
    let directory = source.path().to_path_buf();
    let (proxy, asked) = serve(move |_, request| file(&directory, request));
    let pulled = Command::new(env!("CARGO_BIN_EXE_swr"))
        .args(["models", "pull", "http://models.example/swr/", "--models"])
        .arg(&installed)
        // Without a scheme, and a list with nothing in it: as people set them.
        .env("http_proxy", proxy.trim_start_matches("http://"))
        .env("no_proxy", "localhost, ,")
        .env_remove("NO_PROXY")
        .output()
        .unwrap();
    assert!(
        pulled.status.success(),
        "{}",
        String::from_utf8_lossy(&pulled.stderr)
    );
    assert!(works(&installed));
    let asked = asked.lock().unwrap();
    assert!(
        asked
            .iter()
            .all(|request| request.target.starts_with("http://models.example/swr/")),
        "{asked:?}"
    );
}

#[test]
fn addresses_work_as_they_are_typed() {
    let source = release(3);
    let spaced = source.path().join("my models");
    fs::create_dir(&spaced).unwrap();
    for name in ["index.json", "base.json", "base.onnx", "de.swr"] {
        fs::copy(source.path().join(name), spaced.join(name)).unwrap();
    }
    let directory = source.path().to_path_buf();
    let (address, asked) = serve(move |_, request| file(&directory, request));
    let folder = text(&spaced);
    for typed in [
        format!("{address}/index.json"),
        format!("{address}//"),
        format!("HTTP{}", &address[4..]),
        format!("{address}/my models/"),
        format!("  {address} "),
        format!("{folder}/index.json"),
        format!("file://{folder}"),
        folder,
    ] {
        let target = tempfile::tempdir().unwrap();
        let installed = target.path().join("models");
        assert_eq!(pull(&typed, &installed, &[]), 0, "{typed}");
        assert!(works(&installed), "{typed}");
    }
    let asked = asked.lock().unwrap();
    assert!(
        asked
            .iter()
            .any(|request| request.target == "/my%20models/index.json"),
        "{asked:?}"
    );
}
