//! `[response]`: what alerts do, how often, and what waits for somebody's approval.

use clawdstrike_rules::plan::ActionKind;
use serde::{Deserialize, Serialize};

use super::{Api, Duration, Maintenance};

/// What alerts do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Response {
    /// Where `alert_soc` posts to.
    pub soc_webhook: Option<String>,
    /// Whether the webhook's name may lead to a loopback, link-local or private address.
    pub soc_private_addresses: bool,
    /// Base URL of the agents' control API.
    pub agent_control_api: Option<String>,
    /// What the webhook's receiver reads.
    pub soc_format: SocFormat,
    /// PagerDuty's routing key: `env:NAME` or `file:PATH`.
    pub soc_routing_key: Option<String>,
    /// Keys that sign what goes to the webhook, each `env:NAME` or `file:PATH`: the one in force, and while keys change the next.
    pub webhook_signing_keys: Vec<String>,
    /// The same for what goes to the agents' control API.
    pub control_signing_keys: Vec<String>,
    /// Alerts that the webhook gets in one request at most, where several wait; above 1 only as JSON.
    pub soc_batch: u32,
    /// Requests to the webhook within a second, and as many at once; further ones wait. Left out: no bound.
    pub soc_requests_per_second: Option<u32>,
    /// The same of the agents' control API.
    pub control_requests_per_second: Option<u32>,
    /// Say what would be sent, send nothing.
    pub dry_run: bool,
    /// Actions that wait for an approval, whatever the rule says.
    pub requires_approval: Vec<ActionKind>,
    /// Actions that change what agents may do, within an hour; further ones wait for an approval. 0: all do.
    pub max_actions_per_hour: u32,
    /// The same of one agent.
    pub max_actions_per_agent_per_hour: u32,
    /// Of a hundred agents of the fleet so many are in quarantine at most, but one always may be; a quarantine beyond waits for an
    /// approval. 0: each does. 100: none does.
    pub max_quarantined_percent: u8,
    /// Approvals take two different people.
    pub four_eyes: bool,
    /// When actions that change what agents may do wait for an approval.
    pub maintenance: Vec<Maintenance>,
    /// What nobody has approved for so long expires.
    pub approval_expires: Duration,
    /// Rows of the ledger are kept for so long after their alert last asked for them. An alert that goes on longer acts again.
    pub keep_actions: Duration,
}

/// Alerts in one request, at most.
const MOST_TOGETHER: u32 = 100;

/// What the SOC's webhook reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocFormat {
    /// The whole alert.
    #[default]
    Json,
    /// Slack's incoming webhooks.
    Slack,
    /// PagerDuty's Events API v2.
    Pagerduty,
    /// A card for a workflow's webhook in Teams.
    Teams,
}

impl Default for Response {
    fn default() -> Self {
        Response {
            soc_webhook: None,
            soc_private_addresses: true,
            agent_control_api: None,
            soc_format: SocFormat::Json,
            soc_routing_key: None,
            webhook_signing_keys: Vec::new(),
            control_signing_keys: Vec::new(),
            soc_batch: 1,
            soc_requests_per_second: None,
            control_requests_per_second: None,
            dry_run: false,
            requires_approval: Vec::new(),
            max_actions_per_hour: 100,
            max_actions_per_agent_per_hour: 10,
            max_quarantined_percent: 10,
            four_eyes: false,
            maintenance: Vec::new(),
            approval_expires: Duration::seconds(24 * 3600),
            keep_actions: Duration::seconds(30 * 24 * 3600),
        }
    }
}

/// The least time that the ledger remembers: more than any replay goes back.
const LEAST_KEPT: Duration = Duration::seconds(24 * 3600);

impl Response {
    /// What contradicts itself.
    pub(super) fn check(&self, api: &Api) -> Result<(), String> {
        if self.keep_actions < LEAST_KEPT {
            return Err(format!(
                "[response] keep_actions ({}) is less than {LEAST_KEPT}: actions could be carried out twice",
                self.keep_actions
            ));
        }
        if self.approval_expires.0 <= 0 {
            return Err("[response] approval_expires must be at least \"1s\": nobody could approve anything".into());
        }
        let rates = [
            ("soc_requests_per_second", self.soc_requests_per_second),
            ("control_requests_per_second", self.control_requests_per_second),
        ];
        if let Some((key, _)) = rates.into_iter().find(|(_, rate)| *rate == Some(0)) {
            return Err(format!(
                "[response] {key} is 0: nothing would ever be sent; leave it out for no bound, or use dry_run"
            ));
        }
        if !(1..=MOST_TOGETHER).contains(&self.soc_batch) || self.soc_batch > 1 && self.soc_format != SocFormat::Json {
            return Err(format!(
                "[response] soc_batch is {}: write a whole number from 1 to {MOST_TOGETHER}; above 1 only with soc_format = \"json\", other \
                 services take one message a request",
                self.soc_batch
            ));
        }
        if self.max_quarantined_percent > 100 {
            return Err(format!(
                "[response] max_quarantined_percent is {}: write a whole number from 0 (each quarantine waits for an approval) to 100 (none does)",
                self.max_quarantined_percent
            ));
        }
        if self.four_eyes && api.allow_anonymous {
            return Err("[response] four_eyes with [api] allow_anonymous: who shows no token could be anybody, also who approved \
                        first; set allow_anonymous = false and give each person a token (`clawdstrike-edr token create`)"
                .into());
        }
        for (n, window) in self.maintenance.iter().enumerate() {
            window.times()?;
            if self.maintenance[..n].iter().any(|other| other.name == window.name) {
                return Err(format!(
                    "two of [[response.maintenance]] are named \"{}\": the ledger tells the name as the reason, so names must differ",
                    window.name
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn a_ledger_that_forgets_too_soon_is_refused() {
        let error = Config::parse("[response]\nkeep_actions = \"1h\"\n").unwrap_err();
        assert!(error.contains("keep_actions (1h)"), "{error}");
        let error = Config::parse("[response]\napproval_expires = \"0s\"\n").unwrap_err();
        assert!(error.contains("approval_expires"), "{error}");
    }

    #[test]
    fn bounds_and_windows_that_make_no_sense_are_refused_with_the_way_out() {
        let window = |text: &str| format!("[[response.maintenance]]\n{text}\n");
        let hours = "from = \"22:00\"\nto = \"02:00\"";
        for (text, why) in [
            ("[response]\nmax_quarantined_percent = 101\n".to_owned(), "to 100 (none does)"),
            ("[response]\nsoc_requests_per_second = 0\n".to_owned(), "leave it out"),
            ("[response]\nsoc_batch = 0\n".to_owned(), "from 1 to 100"),
            ("[response]\nsoc_batch = 2\nsoc_format = \"slack\"\n".to_owned(), "soc_format = \"json\""),
            ("[response]\nfour_eyes = true\n[api]\nallow_anonymous = true\n".to_owned(), "allow_anonymous = false"),
            (window(hours), "name"),
            (window(&format!("name = \"\"\n{hours}")), "empty \"name\""),
            (window(&format!("name = \"w\"\ndays = []\n{hours}")), "\"w\": \"days\" is empty"),
            (window(&format!("name = \"w\"\ndays = [\"monday\"]\n{hours}")), "monday"),
            (window("name = \"w\"\nfrom = \"9\"\nto = \"10:00\""), "\"from\" is \"9\""),
            (window("name = \"w\"\nfrom = \"09:00\"\nto = \"24:01\""), "\"to\" is \"24:01\""),
            (window(&format!("name = \"w\"\ntz = \"Europe/Berln\"\n{hours}")), "\"Europe/Berln\" is no time zone"),
            (window(&format!("name = \"w\"\n{hours}")).repeat(2), "are named \"w\""),
        ] {
            let error = Config::parse(&text).unwrap_err();
            assert!(error.contains(why), "{text}{error}");
        }
        let config = Config::parse(&window(&format!("name = \"w\"\ntz = \"Europe/Berlin\"\n{hours}"))).unwrap();
        assert_eq!(config.response.maintenance[0].days.len(), 7);
    }

    #[test]
    fn actions_that_need_an_approval_are_named_as_in_rules() {
        let config = Config::parse("[response]\nrequires_approval = [\"quarantine_agent\"]\n").unwrap();
        assert_eq!(config.response.requires_approval.len(), 1);
        assert!(Config::parse("[response]\nrequires_approval = [\"quarantine\"]\n").is_err());
    }
}
