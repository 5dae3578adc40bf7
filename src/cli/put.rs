//! `put`: into the own store, or streamed to the node that serves it.

use super::{
    Access, CliError, args::Args, client::Client, output, progress::Progress, settings::Settings,
};
use crate::{
    base::{pool::Pool, workers},
    content::{
        block_stream,
        import::{ImportError, Importer},
    },
    data::unixfs::{Chunker, Profile},
    erasure::Shape,
    node::{Node, PutOptions, Stored},
    web::http::escape_url,
};
use crossbeam::channel::{Receiver, Sender, bounded};
use serde_json::Value;
use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
};

/// Memory for chunks while a directory is streamed to a node.
const POOL_BYTES: usize = 16 << 20;
/// Pieces of the stream that may wait for the socket.
const PIECES_MAX: usize = 8;

pub(super) fn put(args: &Args, settings: &Settings) -> Result<(), CliError> {
    let usage = CliError::Usage;
    let source = Path::new(&args.operands[0]);
    let stdin = source == Path::new("-");
    let own_name = source.file_name().and_then(|name| name.to_str()).map(ToOwned::to_owned);
    let options = PutOptions {
        profile: match args.last("profile").map_err(usage)? {
            Some(name) => name.parse().map_err(usage)?,
            None => Profile::default(),
        },
        chunker: match args.last("chunker").map_err(usage)? {
            Some(text) => Some(text.parse::<Chunker>().map_err(usage)?),
            None => None,
        },
        wrap: args.has("wrap"),
        name: args.last("name").map_err(usage)?.or_else(|| own_name.filter(|_| !stdin)),
        mimetype: None,
        protect: protection(args)?,
    };
    if options.wrap && options.name.is_none() {
        return Err(usage("--wrap needs a name for the entry; give one with --name".into()));
    }
    let metadata = if stdin {
        None
    } else {
        let failed = |error| CliError::Failed(format!("{}: {error}", source.display()));
        Some(fs::metadata(source).map_err(failed)?)
    };
    let is_dir = metadata.as_ref().is_some_and(fs::Metadata::is_dir);
    let total = metadata.filter(fs::Metadata::is_file).map(|metadata| metadata.len());
    let mut progress = Progress::new("storing", total);
    let access = Access::open(settings, true)?;
    let stored = match &access {
        Access::Own(node) => own(node, source, options, &mut progress),
        Access::Serving(client) if is_dir => stream_tree(client, source, &options, &mut progress),
        Access::Serving(client) => stream_file(client, source, &options, &mut progress),
    };
    progress.end();
    access.close();
    let stored = stored?;
    if args.has("json") {
        return output::json(&stored);
    }
    output::text(&format!("{}\n", stored["cid"].as_str().unwrap_or_default()))
}

fn own(
    node: &Node,
    source: &Path,
    options: PutOptions,
    progress: &mut Progress,
) -> Result<Value, CliError> {
    let progress = &mut |bytes| progress.add(bytes);
    let stored = if source == Path::new("-") {
        node.put_with(&mut io::stdin().lock(), options, progress)?
    } else {
        node.put_path(source, options, progress)?
    };
    Ok(Stored::to_json(&stored))
}

fn query(options: &PutOptions) -> String {
    let name = options
        .name
        .as_deref()
        .map_or_else(String::new, |name| format!("&name={}", escape_url(name)));
    let protect = options.protect.map_or_else(String::new, |shape| {
        format!("&data={}&parity={}", shape.data(), shape.parity())
    });
    let chunker = options.chunker.map_or_else(String::new, |chunker| format!("&chunker={chunker}"));
    let wrap = if options.wrap { "&wrap=true" } else { "" };
    format!("?profile={}{chunker}{wrap}{name}{protect}", options.profile.name())
}

/// The shape that `--data` and `--parity` name.
pub(super) fn protection(args: &Args) -> Result<Option<Shape>, CliError> {
    let number = |name: &str| -> Result<Option<u64>, CliError> {
        let text = args.last(name).map_err(CliError::Usage)?;
        let number = text.map(|text| text.parse()).transpose();
        number.map_err(|_| CliError::Usage(format!("--{name} takes a number")))
    };
    match (number("data")?, number("parity")?) {
        (None, None) => Ok(None),
        (Some(data), Some(parity)) => {
            let shape = Shape::new(data, parity);
            shape.map(Some).map_err(|error| CliError::Usage(error.to_string()))
        }
        _ => Err(CliError::Usage("--data and --parity are given together".into())),
    }
}

fn stream_file(
    client: &Client,
    source: &Path,
    options: &PutOptions,
    progress: &mut Progress,
) -> Result<Value, CliError> {
    let mut reader: Box<dyn Read> = if source == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(fs::File::open(source)?)
    };
    let mut counted = Counted { reader: &mut *reader, progress };
    Ok(client.post(&format!("/api/v1/put{}", query(options)), &mut counted)?)
}

/// Builds the blocks of a directory here, and streams them.
fn stream_tree(
    client: &Client,
    source: &Path,
    options: &PutOptions,
    progress: &mut Progress,
) -> Result<Value, CliError> {
    let (pieces, pieces_in) = bounded(PIECES_MAX);
    let (source, options_there) = (source.to_owned(), options.clone());
    let builder = std::thread::Builder::new()
        .name("import".into())
        .spawn(move || build_tree(&source, &options_there, Pieces(pieces)))?;
    let mut reader = PiecesReader { pieces: pieces_in, piece: Vec::new(), at: 0 };
    let mut counted = Counted { reader: &mut reader, progress };
    let stored = client.post(&format!("/api/v1/blocks{}", query(options)), &mut counted);
    drop(reader);
    let built = builder.join().map_err(|_| CliError::Failed("the import failed".into()))?;
    built.map_err(|error| CliError::Failed(error.to_string()))?;
    Ok(stored?)
}

fn build_tree(source: &Path, options: &PutOptions, mut out: Pieces) -> Result<(), ImportError> {
    let pool = Pool::new(POOL_BYTES);
    let workers = workers::start().map_err(|_| ImportError::Worker)?;
    // If the node is gone, its answer tells why; the rest is built for nobody.
    let mut sink = |block| drop(block_stream::write_block(&mut out, &block));
    let mut importer = Importer {
        profile: options.profile,
        chunker: options.chunker(),
        pool: &pool,
        workers: &workers,
        sink: &mut sink,
        leaf: None,
        progress: &mut |_| {},
    };
    let mut root = importer.path(source)?;
    if options.wrap {
        root = importer.wrap(options.name.clone().unwrap_or_default(), root)?;
    }
    let _ = block_stream::write_root(&mut out, &root);
    Ok(())
}

/// The writing end of a pipe between two threads.
struct Pieces(Sender<Vec<u8>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct PiecesReader {
    pieces: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for PiecesReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            let Ok(piece) = self.pieces.recv() else { return Ok(0) };
            (self.piece, self.at) = (piece, 0);
        }
        let len = buffer.len().min(self.piece.len() - self.at);
        buffer[..len].copy_from_slice(&self.piece[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

/// Tells of what is read.
pub(super) struct Counted<'a> {
    pub(super) reader: &'a mut dyn Read,
    pub(super) progress: &'a mut Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.progress.add(read as u64);
        Ok(read)
    }
}
