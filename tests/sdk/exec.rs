//! SDKs below `agent exec`, which sets the variables for them.

use serde_json::json;

use crate::bench::{AZURE_AUDIENCE, BILLING, Bench, grant, own_entry};

#[test]
fn sdks_run_unmodified_below_agent_exec() {
    let Some(bench) = Bench::start(&own_entry(&["key = \"rsa\""])) else {
        return;
    };
    for (sdk, audience) in [("aws", "sts.amazonaws.com"), ("azure", AZURE_AUDIENCE)] {
        let said = bench.program_below_exec(audience, sdk).again();
        assert_eq!(said, grant(&json!({"sub": BILLING})));
        let said = bench.program_below_exec("vault", sdk).again();
        assert!(said.contains("audience: ['vault']"), "{sdk}: {said}");
    }
}
