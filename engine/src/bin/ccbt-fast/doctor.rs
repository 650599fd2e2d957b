//! `ccbt-fast doctor`: what this machine lacks, and what to type.

use std::path::PathBuf;

use ccbt_fast::doctor::{Finding, Subjects, Verdict, examine};
use ccbt_protocol::metainfo::escape_for_terminal;
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::console::print_line;
use crate::failure::Failure;
use crate::json;
use crate::limits;

#[derive(Serialize)]
struct Report<'a> {
    verdict: Verdict,
    findings: &'a [Finding],
}

/// See the module. Fails when the engine would not run.
pub fn run(args: &DoctorArgs) -> Result<(), Failure> {
    // What counts is what a command of ours gives itself.
    limits::raise();
    let subjects = Subjects {
        root: PathBuf::from("/"),
        folders: args.folders.clone(),
        port: args.port,
        router: args.router,
    };
    let findings = examine(&subjects);
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (warned, failed) = (count(Verdict::Warn), count(Verdict::Fail));
    if args.json {
        let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
        print_line(&json::to_line(&Report { verdict, findings: &findings }));
    } else {
        findings.iter().for_each(|finding| print_line(&words(finding)));
        print_line(&format!("{} checks, {warned} warnings, {failed} failures", findings.len()));
    }
    if failed > 0 { Err(Failure::Unfit(failed)) } else { Ok(()) }
}

fn words(finding: &Finding) -> String {
    let verdict = match finding.verdict {
        Verdict::Ok => "ok  ",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    };
    let mut text = format!("{verdict}  {:15} {}", finding.check, escape_for_terminal(&finding.found));
    if let Some(advice) = &finding.advice {
        text += &format!("\n                      -> {}", escape_for_terminal(advice));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_stands_below_what_was_found() {
        let finding = Finding {
            check: "kernel",
            verdict: Verdict::Warn,
            found: "Linux 5.15\x1b[2J".into(),
            advice: Some("install".into()),
        };
        let text = words(&finding);
        assert!(
            text.starts_with("warn  kernel") && text.ends_with("\n                      -> install"),
            "{text}"
        );
        assert!(!text.contains('\x1b'), "{text}");
    }
}
