//! The screen of `swr listen`: level, log-mel, posteriors and the last detections, drawn ten times a second; keys change what is listened for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Paragraph};
use swr_core::MEL_BINS;
use swr_core::labels::NOT_KEYWORDS;

use super::super::words::WordsArgs;
use super::MOST_SHIFT;
use super::session::{Heard, Session, Wanted};
use crate::cpu::CpuClock;
use crate::spotter::{Event, Listener};

/// From one drawing to the next.
const REDRAW: Duration = Duration::from_millis(100);
/// Seconds over which CPU use is averaged.
const CPU_OVER: Duration = Duration::from_secs(2);
/// Log-mel that is drawn brightest where the front end has no gain; with one, it is the target's.
const BRIGHTEST: f32 = 2.0;
/// How far below the brightest is black.
const DRAWN: f32 = 14.0;
/// The level meter's range.
const QUIETEST_DB: f32 = -60.0;
/// By how much a key moves the log-odds of all thresholds: a step of `swr eval --stream`.
const SHIFT_STEP: f32 = 0.25;
const LAST_EVENTS: usize = 50;

/// What is shown beside the spotter's own state.
struct View {
    source: String,
    peak: f32,
    events: VecDeque<Event>,
    told: String,
    cpu: CpuClock,
    cpu_share: f64,
    cpu_since: Instant,
}

/// Listens and shows, until the audio or the user ends it. `after` is given all that was heard.
pub(super) fn run(
    session: &mut Session,
    source: &str,
    after: impl FnMut(&mut Heard),
) -> anyhow::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let result = listen(&mut terminal, session, source, after);
    ratatui::restore();
    result
}

fn listen(
    terminal: &mut ratatui::DefaultTerminal,
    session: &mut Session,
    source: &str,
    mut after: impl FnMut(&mut Heard),
) -> anyhow::Result<()> {
    let mut view = View {
        source: source.to_owned(),
        peak: 0.0,
        events: VecDeque::new(),
        told: String::new(),
        cpu: CpuClock::start()?,
        cpu_share: 0.0,
        cpu_since: Instant::now(),
    };
    let mut drawn = Instant::now();
    loop {
        let mut heard = session.advance()?;
        after(&mut heard);
        let peak = session.samples().iter().fold(0f32, |m, s| m.max(s.abs()));
        view.peak = peak.max(view.peak * 0.8);
        for event in heard.events {
            view.events.push_front(event);
        }
        view.events.truncate(LAST_EVENTS);
        if let Some(told) = heard.told.pop() {
            view.told = told;
        }
        if heard.ended {
            return Ok(());
        }
        if drawn.elapsed() < REDRAW {
            continue;
        }
        drawn = Instant::now();
        if view.cpu_since.elapsed() >= CPU_OVER {
            view.cpu_share =
                view.cpu.elapsed()?.as_secs_f64() / view.cpu_since.elapsed().as_secs_f64();
            (view.cpu, view.cpu_since) = (CpuClock::start()?, Instant::now());
        }
        terminal.draw(|frame| draw(frame, session, &view))?;
        while event::poll(Duration::ZERO)? {
            let Input::Key(key) = event::read()? else {
                continue;
            };
            if key.kind != KeyEventKind::Press {
                continue;
            }
            let ends = key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL;
            if ends || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                return Ok(());
            }
            if let Err(error) = press(key.code, session, &mut view) {
                view.told = format!("{error:#}");
            }
        }
    }
}

/// What a key does.
fn press(key: KeyCode, session: &mut Session, view: &mut View) -> anyhow::Result<()> {
    let wanted = session.wanted().clone();
    match key {
        KeyCode::Char('l') => {
            let languages = session.languages()?;
            let now = languages.iter().position(|l| *l == wanted.languages[0]);
            let next = now.map_or(0, |now| (now + 1) % languages.len());
            session.change(Wanted {
                languages: vec![languages[next].clone()],
                words: WordsArgs::default(),
                ..wanted
            });
        }
        KeyCode::Char('a') => session.change(Wanted {
            languages: session.languages()?,
            words: WordsArgs::default(),
            ..wanted
        }),
        KeyCode::Char('+' | '=' | '-') => {
            let step = if key == KeyCode::Char('-') {
                -SHIFT_STEP
            } else {
                SHIFT_STEP
            };
            let shift = (wanted.shift + step).clamp(-MOST_SHIFT, MOST_SHIFT);
            session.change(Wanted { shift, ..wanted });
        }
        KeyCode::Char('0') => session.change(Wanted {
            threshold: None,
            shift: 0.0,
            ..wanted
        }),
        KeyCode::Char('w') => {
            let words = WordsArgs {
                words: next_word(session.spotter().listeners(), &wanted.words.words),
            };
            session.change(Wanted { words, ..wanted });
        }
        KeyCode::Char('e') => session.change(Wanted {
            words: WordsArgs::default(),
            ..wanted
        }),
        KeyCode::Char('d') => next_device(session, view)?,
        _ => {}
    }
    Ok(())
}

/// The keyword after the one that is wanted alone, over all languages; the first where several or all are wanted.
fn next_word(listeners: &[Listener], wanted: &[String]) -> Vec<String> {
    let keywords = listeners
        .iter()
        .flat_map(|listener| &listener.labels()[..listener.labels().len() - NOT_KEYWORDS]);
    let mut keywords: Vec<&String> = keywords.collect();
    keywords.sort();
    keywords.dedup();
    let now = match wanted {
        [only] => keywords.iter().position(|keyword| *keyword == only),
        _ => None,
    };
    let next = now.map_or(0, |now| (now + 1) % keywords.len());
    keywords
        .get(next)
        .map(|word| word.to_string())
        .into_iter()
        .collect()
}

#[cfg(feature = "live")]
fn next_device(session: &mut Session, view: &mut View) -> anyhow::Result<()> {
    let devices = crate::capture::devices()?;
    let named = |device: &crate::capture::Device| view.source.starts_with(&device.name);
    let now = devices.iter().position(named);
    let next = now.map_or(0, |now| (now + 1) % devices.len().max(1));
    if let Some(device) = devices.get(next) {
        // --channel was meant for the first.
        let (source, name) = super::default_source(Some(&device.id), None)?;
        session.change_source(source, name.clone())?;
        view.source = name;
    }
    Ok(())
}

#[cfg(not(feature = "live"))]
fn next_device(_: &mut Session, view: &mut View) -> anyhow::Result<()> {
    view.told = "built without microphones, that is without the feature `live`".into();
    Ok(())
}

fn draw(frame: &mut Frame, session: &Session, view: &View) {
    let [top, level, middle, events, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(12),
        Constraint::Length(8),
        Constraint::Length(2),
    ])
    .areas(frame.area());
    let wanted = session.wanted();
    let mut threshold = match wanted.threshold {
        Some(threshold) => format!("{threshold:.2}"),
        None => "of the packages".into(),
    };
    if wanted.shift != 0.0 {
        threshold += &format!(", moved by {:+.2}", wanted.shift);
    }
    let words = match &wanted.words.words[..] {
        [] => "all words".into(),
        words => words.join(" "),
    };
    let title = Line::from(vec![
        Span::from(" swr ").bold().reversed(),
        format!("  {}   ", view.source).into(),
        Span::from(wanted.languages.join(" ")).bold(),
        format!(
            "   {words}   threshold {threshold}   CPU {:.1} %",
            100.0 * view.cpu_share
        )
        .into(),
    ]);
    frame.render_widget(title, top);
    let db = 20.0 * view.peak.max(1e-6).log10();
    let share = ((db - QUIETEST_DB) / -QUIETEST_DB).clamp(0.0, 1.0);
    let colour = if db > -1.0 { Color::Red } else { Color::Green };
    let gauge = Gauge::default()
        .ratio(f64::from(share))
        .label(format!("{db:.0} dB"))
        .gauge_style(Style::new().fg(colour));
    frame.render_widget(gauge, level);
    let [mel, bars] =
        Layout::horizontal([Constraint::Percentage(55), Constraint::Percentage(45)]).areas(middle);
    let gain = session.spotter().frontend_settings().gain;
    let brightest = gain.map_or(BRIGHTEST, |gain| gain.target.ln());
    log_mel(frame, mel, session.spotter().recent_frames(), brightest);
    posteriors(frame, bars, session.spotter().listeners());
    let block = Block::bordered().title("detections");
    let lines = view.events.iter().map(|event| {
        let Event {
            time_s,
            language,
            keyword,
            score,
        } = event;
        Line::from(vec![
            format!("{time_s:8.2} s  {language:<5} {score:4.2}  ").into(),
            Span::from(keyword.clone()).bold().green(),
        ])
    });
    frame.render_widget(
        Paragraph::new(lines.collect::<Vec<_>>()).block(block),
        events,
    );
    let device = if cfg!(feature = "live") {
        "   d next device"
    } else {
        ""
    };
    let keys = format!(
        "q quit   l next language   a all languages   w next word alone   e every word   + - 0 threshold{device}"
    );
    let text = vec![
        Line::from(view.told.clone()).yellow(),
        Line::from(keys).dim(),
    ];
    frame.render_widget(Paragraph::new(text), bottom);
}

/// The last frames, newest right, low frequencies at the bottom; a character shows two bins or more of one or more frames.
fn log_mel(frame: &mut Frame, area: Rect, frames: &[f32], brightest: f32) {
    let block = Block::bordered().title("log-mel");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let rows = 2 * inner.height as usize;
    if rows == 0 {
        return;
    }
    let count = frames.len() / MEL_BINS;
    for x in 0..inner.width {
        let back = (inner.width - 1 - x) as usize;
        let Some(place) = count.checked_sub(back + 1) else {
            continue;
        };
        let values = &frames[place * MEL_BINS..][..MEL_BINS];
        let colour = |row: usize| {
            // Row 0 is the highest band.
            let bin = (rows - 1 - row) * MEL_BINS / rows;
            heat((values[bin] - brightest) / DRAWN + 1.0)
        };
        for y in 0..inner.height {
            let style = Style::new()
                .fg(colour(2 * y as usize))
                .bg(colour(2 * y as usize + 1));
            let buffer = frame.buffer_mut();
            buffer[(inner.x + x, inner.y + y)]
                .set_char('▀')
                .set_style(style);
        }
    }
}

/// From black over violet and orange to white.
fn heat(share: f32) -> Color {
    let s = share.clamp(0.0, 1.0);
    let channel = |from: f32, to: f32| (255.0 * ((s - from) / (to - from)).clamp(0.0, 1.0)) as u8;
    let violet = 160.0 * (1.0 - (s - 0.35).abs() / 0.35).max(0.0);
    Color::Rgb(
        channel(0.1, 0.6),
        channel(0.4, 0.9),
        (violet as u8).max(channel(0.8, 1.0)),
    )
}

/// The likeliest keywords of every language, with their thresholds.
fn posteriors(frame: &mut Frame, area: Rect, listeners: &[Listener]) {
    let block = Block::bordered().title("posteriors");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let each = (inner.height as usize / listeners.len().max(1)).max(1);
    let width = (inner.width as usize).saturating_sub(20).max(4);
    let mut lines = Vec::new();
    for listener in listeners {
        let keywords = listener.labels().len().saturating_sub(2);
        let mut order: Vec<usize> = (0..keywords).collect();
        let posteriors = listener.posteriors();
        order.sort_by(|a, b| posteriors[*b].total_cmp(&posteriors[*a]));
        for label in order.into_iter().take(each) {
            let (p, threshold) = (posteriors[label], listener.settings().thresholds[label]);
            let filled = (p * width as f32).round() as usize;
            let mark = (threshold * width as f32) as usize;
            let bar: String = (0..width)
                .map(|x| match (x < filled, x == mark) {
                    (_, true) => '│',
                    (true, false) => '█',
                    (false, false) => '·',
                })
                .collect();
            let colour = if p >= threshold {
                Color::Green
            } else {
                Color::Gray
            };
            lines.push(Line::from(vec![
                Span::from(format!("{bar} {p:4.2} ")).fg(colour),
                Span::from(listener.labels()[label].clone()),
            ]));
        }
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    #[test]
    fn colours_go_from_dark_to_bright() {
        let brightness = |share| match heat(share) {
            Color::Rgb(r, g, b) => u32::from(r) + u32::from(g) + u32::from(b),
            _ => 0,
        };
        let all: Vec<u32> = (0..=10).map(|i| brightness(i as f32 / 10.0)).collect();
        assert_eq!((all[0], all[10]), (0, 765), "{all:?}");
        assert!(all.windows(2).all(|pair| pair[0] <= pair[1]), "{all:?}");
    }

    #[test]
    fn the_newest_frame_is_at_the_right_and_low_bands_at_the_bottom() {
        let mut terminal = Terminal::new(TestBackend::new(12, 12)).expect("a terminal");
        let mut frames = vec![BRIGHTEST - DRAWN; 30 * MEL_BINS];
        // The lowest band of the newest frame is loud.
        frames[29 * MEL_BINS] = BRIGHTEST;
        let draw = |frame: &mut Frame| log_mel(frame, frame.area(), &frames, BRIGHTEST);
        terminal.draw(draw).expect("drawn");
        let cell = &terminal.backend().buffer()[(10, 10)];
        assert_eq!(cell.bg, Color::Rgb(255, 255, 255));
        assert_eq!(terminal.backend().buffer()[(9, 10)].bg, Color::Rgb(0, 0, 0));
    }
}
