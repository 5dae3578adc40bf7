//! The way to a node that serves the data directory: its API over HTTP.

use serde_json::Value;
use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read},
    path::Path,
    time::Duration,
};
use ureq::{Agent, Body, SendBody, http::Response};

/// The bytes of a file from an offset on: status, bytes to come if known, and a reader.
pub type Content = (u16, Option<u64>, Box<dyn Read>);

/// A node that says nothing for so long does not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A serving node, as its `node.json` tells of it.
pub struct Client {
    agent: Agent,
    base: String,
    token: String,
}

/// What a node answered instead of what was asked for.
#[derive(Debug)]
pub struct ApiError {
    /// For scripts.
    pub code: String,
    /// For people.
    pub message: String,
}

impl ApiError {
    fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

impl From<ureq::Error> for ApiError {
    fn from(error: ureq::Error) -> Self {
        Self::new("unreachable", format!("the node does not answer: {error}"))
    }
}

impl From<io::Error> for ApiError {
    fn from(error: io::Error) -> Self {
        Self::new("io", error.to_string())
    }
}

impl Client {
    /// The node that serves `data_dir`, if there is one.
    pub fn of(data_dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(data_dir.join("node.json")).ok()?;
        let node: Value = serde_json::from_str(&text).ok()?;
        let base = format!("http://{}", node["http"].as_str()?);
        let token = fs::read_to_string(data_dir.join("api-token")).unwrap_or_default();
        let config = Agent::config_builder().http_status_as_error(false).build();
        let client = Self { agent: config.into(), base, token: token.trim().into() };
        // A node that was killed leaves its file behind.
        client.answers().then_some(client)
    }

    /// Whether a node is there that can be talked to: one that hangs is none.
    fn answers(&self) -> bool {
        let request = self.agent.get(format!("{}/healthz", self.base));
        request.config().timeout_global(Some(ANSWER_TIMEOUT)).build().call().is_ok()
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    fn get(&self, path: &str) -> Result<Response<Body>, ApiError> {
        let url = format!("{}{path}", self.base);
        Ok(self.agent.get(url).header("authorization", self.bearer()).call()?)
    }

    /// GETs JSON.
    ///
    /// # Errors
    /// What the node says.
    pub fn get_json(&self, path: &str) -> Result<Value, ApiError> {
        json(self.get(path)?)
    }

    /// GETs content; the status, the length if known, and the bytes.
    ///
    /// # Errors
    /// What the node says.
    pub fn get_content(&self, path: &str, from: u64) -> Result<Content, ApiError> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        let response = request.call()?;
        let status = response.status().as_u16();
        if !matches!(status, 200 | 206 | 416) {
            return Err(api_error(response));
        }
        let length = response
            .headers()
            .get("content-length")
            .and_then(|length| length.to_str().ok()?.parse().ok());
        Ok((status, length, Box::new(response.into_body().into_reader())))
    }

    /// POSTs a body and reads JSON.
    ///
    /// # Errors
    /// What the node says.
    pub fn post(&self, path: &str, body: &mut dyn Read) -> Result<Value, ApiError> {
        let mut body = body;
        json(self.send(path, SendBody::from_reader(&mut body))?)
    }

    fn send(&self, path: &str, body: SendBody<'_>) -> Result<Response<Body>, ApiError> {
        let request = self.agent.post(format!("{}{path}", self.base));
        Ok(request.header("authorization", self.bearer()).send(body)?)
    }

    /// DELETEs, and reads JSON.
    ///
    /// # Errors
    /// What the node says.
    pub fn delete(&self, path: &str) -> Result<Value, ApiError> {
        let request = self.agent.delete(format!("{}{path}", self.base));
        json(request.header("authorization", self.bearer()).call()?)
    }

    /// Starts a job, and tells `each` of its lines; gives the last.
    ///
    /// # Errors
    /// What the node says.
    pub fn job(&self, path: &str, each: &mut dyn FnMut(&Value)) -> Result<Value, ApiError> {
        let response = self.send(path, SendBody::none())?;
        if response.status() != 200 {
            return Err(api_error(response));
        }
        let mut last = Value::Null;
        for line in BufReader::new(response.into_body().into_reader()).lines() {
            last = serde_json::from_str(&line?).map_err(io::Error::from)?;
            each(&last);
        }
        match last.get("error") {
            Some(error) => Err(from_value(error)),
            None if last["done"] == true => Ok(last),
            None => Err(ApiError::new("cut", "the node ended before the job was done")),
        }
    }
}

fn json(response: Response<Body>) -> Result<Value, ApiError> {
    if !response.status().is_success() {
        return Err(api_error(response));
    }
    let mut text = String::new();
    response.into_body().into_reader().read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text).map_err(io::Error::from)?)
}

fn api_error(response: Response<Body>) -> ApiError {
    let status = response.status();
    let mut text = String::new();
    let _ = response.into_body().into_reader().take(64 << 10).read_to_string(&mut text);
    match serde_json::from_str::<Value>(&text).ok().and_then(|value| value.get("error").cloned()) {
        Some(error) => from_value(&error),
        None => ApiError::new("http", format!("the node answers {status}")),
    }
}

fn from_value(error: &Value) -> ApiError {
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    ApiError { code: text("code"), message: text("message") }
}
