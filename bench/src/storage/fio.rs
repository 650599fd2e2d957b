//! The same load by fio, and what its JSON says.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{Alloc, Case, Measured, Order, StorageArgs, Way};
use crate::error::BenchError;

/// Its version, when it is installed.
pub(super) fn version() -> Option<String> {
    let output = Command::new("fio").arg("--version").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A fresh file written, then read.
pub(super) fn measure(args: &StorageArgs, case: Case) -> Result<Measured, BenchError> {
    let file = args.dir.join("ccbt-bench-fio.dat");
    let _ = std::fs::remove_file(&file);
    let both =
        pass(args, case, &file, "write").and_then(|write| Ok((write, pass(args, case, &file, "read")?)));
    let _ = std::fs::remove_file(&file);
    let (write, read) = both?;
    // Its work is done in a child of its own, whose memory is not seen.
    Ok(Measured { write, read, peak_rss_mib: 0.0, seen: None })
}

fn pass(args: &StorageArgs, case: Case, file: &Path, way: &str) -> Result<Way, BenchError> {
    let fallocate = match case.alloc {
        Alloc::Full => "native",
        Alloc::Sparse => "truncate",
    };
    let random = match case.order {
        Order::Rising => "",
        Order::Random => "rand",
    };
    let mut command = Command::new("fio");
    command
        .args(["--name=bench", "--ioengine=io_uring", "--direct=1", "--output-format=json"])
        .args(["--percentile_list=50:99:99.9", "--invalidate=0"])
        .arg(format!("--filename={}", file.display()))
        .arg(format!("--rw={random}{way}"))
        .arg(format!("--bs={}k", case.piece_kib))
        .arg(format!("--iodepth={}", case.window))
        .arg(format!("--size={}m", args.size_mib))
        .arg(format!("--fallocate={fallocate}"))
        // Huge pages, as the service has them: without, a request of 1 MiB is one of 256 pieces, and on virtual
        // disks fio reaches half the rate or less.
        .env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
    let (text, _) = super::output(&mut command, &args.dir)?;
    parse(&text, way)
}

/// One direction from fio's report; lines before the JSON are warnings.
fn parse(text: &str, way: &str) -> Result<Way, BenchError> {
    let json = text.find('{').map_or("", |at| &text[at..]);
    let value: Value =
        serde_json::from_str(json).map_err(|error| BenchError::Client(format!("fio: {error}: {text}")))?;
    let job = &value["jobs"][0];
    let number = |value: &Value, what: &str| {
        value.as_f64().ok_or_else(|| BenchError::Client(format!("fio's report has no {what}")))
    };
    let of = &job[way];
    let latency = |permille: &str| {
        number(&of["clat_ns"]["percentile"][permille], "percentiles").map(|ns| (ns / 1e3) as u64)
    };
    let bytes = number(&of["io_bytes"], "io_bytes")?;
    let cpu = number(&job["usr_cpu"], "usr_cpu")? + number(&job["sys_cpu"], "sys_cpu")?;
    Ok(Way {
        seconds: bytes / number(&of["bw_bytes"], "bw_bytes")?,
        cpu_s: cpu / 100.0 * number(&job["job_runtime"], "job_runtime")? / 1e3,
        p50_us: latency("50.000000")?,
        p99_us: latency("99.000000")?,
        p999_us: latency("99.900000")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let text = r#"fio: a warning
            {"jobs": [{"job_runtime": 2000, "usr_cpu": 1.5, "sys_cpu": 8.5, "write": {"io_bytes": 4000,
            "bw_bytes": 2000, "clat_ns": {"percentile": {"50.000000": 1500, "99.000000": 9000,
            "99.900000": 10000}}}}]}"#;
        let way = parse(text, "write").expect("complete");
        assert_eq!((way.seconds, way.cpu_s), (2.0, 0.2));
        assert_eq!((way.p50_us, way.p99_us, way.p999_us), (1, 9, 10));
        assert!(parse(text, "read").is_err() && parse("fio: no such file", "write").is_err());
    }
}
