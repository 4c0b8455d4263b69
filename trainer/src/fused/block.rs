//! One residual block: `[B, inputs, bands_in, T]` to `[B, width, bands_out, T]`, three sweeps forward, three backward
//! (one more each where a 1x1 convolution enters).
//!
//! Names in the sweeps: `entry` is the 1x1 convolution's result before its norm, `aux` the frequency convolution's before its
//! sub-band norm, `pooled` the normalised aux averaged over frequency, `time` the temporal convolution's result before its norm.

use multiversion::multiversion;
use rayon::prelude::*;

use super::kernels::*;
use super::norm::{Norm, NormMode};
use super::{Dropout, Packing, add_up};
use crate::architecture::{Block, SUB_BANDS};

/// Parameters packed as `[entry.conv, entry.scale, entry.shift,] frequency.conv, frequency.scale, frequency.shift, time.conv,
/// time.scale, time.shift, point.conv`.
pub(super) struct FusedBlock {
    /// Shape of the block.
    pub(super) block: Block,
    /// Frames of zero padding on the left of the temporal convolution.
    pub(super) left: usize,
}

/// What backward needs of the forward pass.
pub(super) struct BlockSaved {
    entry: Vec<f32>,
    entry_norm: Option<Norm>,
    aux: Vec<f32>,
    aux_norm: Norm,
    pooled: Vec<f32>,
    time: Vec<f32>,
    time_norm: Norm,
    keep: Vec<f32>,
}

/// The block's parameters, unpacked.
struct Parameters<'a> {
    entry: &'a [f32],
    entry_scale: &'a [f32],
    entry_shift: &'a [f32],
    frequency: &'a [f32],
    frequency_scale: &'a [f32],
    frequency_shift: &'a [f32],
    time: &'a [f32],
    time_scale: &'a [f32],
    time_shift: &'a [f32],
    point: &'a [f32],
}

/// Sizes of one sample's buffers.
#[derive(Clone, Copy)]
struct Sizes {
    inputs: usize,
    width: usize,
    bands_in: usize,
    bands_out: usize,
    stride: usize,
    dilation: usize,
    left: usize,
    frames: usize,
}

impl Sizes {
    /// Values a channel on the input side.
    #[inline(always)]
    fn channel_in(self) -> usize {
        self.bands_in * self.frames
    }

    /// Values a channel on the output side.
    #[inline(always)]
    fn channel_out(self) -> usize {
        self.bands_out * self.frames
    }

    /// Norm group of a channel's band.
    #[inline(always)]
    fn group(self, channel: usize, band: usize) -> usize {
        channel * SUB_BANDS + band / (self.bands_out / SUB_BANDS)
    }
}

impl FusedBlock {
    /// Number of packed parameters.
    pub(super) fn parameters(&self) -> usize {
        let w = self.block.width;
        let entry = if self.block.has_entry() { w * self.block.inputs + 2 * w } else { 0 };
        entry + w * (3 + 2 * SUB_BANDS) + w * (3 + 2) + w * w
    }

    fn sizes(&self, frames: usize) -> Sizes {
        let b = &self.block;
        Sizes {
            inputs: b.inputs,
            width: b.width,
            bands_in: b.bands_in,
            bands_out: b.bands_out,
            stride: b.stride,
            dilation: b.dilation,
            left: self.left,
            frames,
        }
    }

    fn unpack<'a>(&self, p: &'a [f32]) -> Parameters<'a> {
        let (w, mut packing) = (self.block.width, Packing::new());
        let entry = if self.block.has_entry() { w } else { 0 };
        let mut next = |length| &p[packing.next(length)];
        Parameters {
            entry: next(entry * self.block.inputs),
            entry_scale: next(entry),
            entry_shift: next(entry),
            frequency: next(w * 3),
            frequency_scale: next(w * SUB_BANDS),
            frequency_shift: next(w * SUB_BANDS),
            time: next(w * 3),
            time_scale: next(w),
            time_shift: next(w),
            point: next(w * w),
        }
    }

    /// Factor of every sample's channel: 0 where dropped, `1 / (1 - rate)` elsewhere.
    fn keep(&self, batch: usize, dropout: Option<Dropout>) -> Vec<f32> {
        let count = batch * self.block.width;
        let Some(Dropout { rate, seed }) = dropout else { return vec![1.0; count] };
        let draw = |i: usize| (crate::random::mix(seed, i as u64) >> 40) as f32 / (1u64 << 24) as f32;
        (0..count).map(|i| if draw(i) < rate { 0.0 } else { 1.0 / (1.0 - rate) }).collect()
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma", "x86_64+avx2+fma"))]
fn forward_entry(entry: &mut [f32], x: &[f32], weight: &[f32], s: Sizes) -> Vec<[f32; 2]> {
    point_conv(entry, x, Matrix::new(weight, s.width, s.inputs), s.channel_in());
    row_moments(entry, s.channel_in())
}

#[inline(always)]
fn activate(out: &mut [f32], x: &[f32], factor: f32, offset: f32) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = factor.mul_add(*x, offset).max(0.0);
    }
}

/// Frequency convolution of what enters it: `x`, or the activated entry.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma", "x86_64+avx2+fma"))]
fn forward_frequency(aux: &mut [f32], x: &[f32], entry_norm: Option<&Norm>, kernel: &[f32], s: Sizes) -> Vec<[f32; 2]> {
    let mut activated = vec![0f32; if entry_norm.is_some() { s.channel_in() } else { 0 }];
    let mut sums = Vec::with_capacity(s.width * SUB_BANDS);
    for (c, aux) in aux.chunks_exact_mut(s.channel_out()).enumerate() {
        let x = &x[c * s.channel_in()..][..s.channel_in()];
        let x = match entry_norm {
            Some(norm) => {
                activate(&mut activated, x, norm.factor[c], norm.offset[c]);
                &activated
            }
            None => x,
        };
        frequency_conv(aux, x, &kernel[c * 3..][..3], s.bands_in, s.stride, s.frames);
        sums.extend(row_moments(aux, s.channel_out() / SUB_BANDS));
    }
    sums
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma", "x86_64+avx2+fma"))]
fn forward_time(pooled: &mut [f32], time: &mut [f32], aux: &[f32], norm: &Norm, kernel: &[f32], s: Sizes) -> Vec<[f32; 2]> {
    let per_band = 1.0 / s.bands_out as f32;
    for (c, (pooled, time)) in pooled.chunks_exact_mut(s.frames).zip(time.chunks_exact_mut(s.frames)).enumerate() {
        let mut offset = 0.0;
        pooled.fill(0.0);
        for band in 0..s.bands_out {
            let group = s.group(c, band);
            offset += norm.offset[group];
            add_scaled(pooled, &aux[(c * s.bands_out + band) * s.frames..][..s.frames], norm.factor[group] * per_band);
        }
        for p in pooled.iter_mut() {
            *p += offset * per_band;
        }
        time.fill(0.0);
        for tap in 0..3 {
            let (to, from, count) = tap_range(tap, s.dilation, s.left, s.frames);
            add_scaled(&mut time[to..to + count], &pooled[from..from + count], kernel[c * 3 + tap]);
        }
    }
    row_moments(time, s.frames)
}

/// SiLU of the normalised temporal branch and its derivative.
#[inline(always)]
fn silu(value: &mut [f32], slope: &mut [f32], time: &[f32], norm: &Norm, frames: usize) {
    for (c, row) in time.chunks_exact(frames).enumerate() {
        let (f, o) = (norm.factor[c], norm.offset[c]);
        let (value, slope) = (&mut value[c * frames..][..frames], &mut slope[c * frames..][..frames]);
        for t in 0..frames {
            let x = f.mul_add(row[t], o);
            let s = sigmoid(x);
            value[t] = x * s;
            slope[t] = s * x.mul_add(1.0 - s, 1.0);
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma", "x86_64+avx2+fma"))]
#[allow(clippy::too_many_arguments)]
fn forward_out(
    out: &mut [f32],
    aux: &[f32],
    aux_norm: &Norm,
    time: &[f32],
    time_norm: &Norm,
    point: &[f32],
    keep: &[f32],
    residual: Option<&[f32]>,
    s: Sizes,
) {
    let n = s.width * s.frames;
    let (mut activated, mut branch) = (vec![0f32; n], vec![0f32; n]);
    // The derivative goes where the branch will be written.
    silu(&mut activated, &mut branch, time, time_norm, s.frames);
    point_conv(&mut branch, &activated, Matrix::new(point, s.width, s.width), s.frames);
    for c in 0..s.width {
        let branch = &mut branch[c * s.frames..][..s.frames];
        for v in branch.iter_mut() {
            *v *= keep[c];
        }
        for band in 0..s.bands_out {
            let group = s.group(c, band);
            let (f, o) = (aux_norm.factor[group], aux_norm.offset[group]);
            let at = (c * s.bands_out + band) * s.frames;
            let (out, aux) = (&mut out[at..][..s.frames], &aux[at..][..s.frames]);
            match residual {
                Some(x) => {
                    let x = &x[at..][..s.frames];
                    for i in 0..s.frames {
                        out[i] = (f.mul_add(aux[i], o) + branch[i] + x[i]).max(0.0);
                    }
                }
                None => {
                    for i in 0..s.frames {
                        out[i] = (f.mul_add(aux[i], o) + branch[i]).max(0.0);
                    }
                }
            }
        }
    }
}

/// Masks the gradient by the ReLU, and goes back through the temporal branch to before its norm's input.
/// Leaves `[sum of dy, sum of dy * time]` per channel and the point convolution's gradient.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma", "x86_64+avx2+fma"))]
#[allow(clippy::too_many_arguments)]
fn backward_out(
    dout: &mut [f32],
    dtime: &mut [f32],
    grad: &[f32],
    out: &[f32],
    time: &[f32],
    time_norm: &Norm,
    point: &[f32],
    keep: &[f32],
    s: Sizes,
) -> (Vec<[f32; 2]>, Vec<f32>) {
    let n = s.width * s.frames;
    let mut dbranch = vec![0f32; n];
    for (c, d) in dbranch.chunks_exact_mut(s.frames).enumerate() {
        for band in 0..s.bands_out {
            let at = (c * s.bands_out + band) * s.frames;
            let (dout, grad, out) = (&mut dout[at..][..s.frames], &grad[at..][..s.frames], &out[at..][..s.frames]);
            for i in 0..s.frames {
                let g = if out[i] > 0.0 { grad[i] } else { 0.0 };
                dout[i] = g;
                d[i] += g;
            }
        }
        for d in d.iter_mut() {
            *d *= keep[c];
        }
    }
    let (mut activated, mut slope) = (vec![0f32; n], vec![0f32; n]);
    silu(&mut activated, &mut slope, time, time_norm, s.frames);
    let mut dpoint = vec![0f32; s.width * s.width];
    point_conv_weight_gradient(&mut dpoint, &dbranch, &activated, s.width, s.width, s.frames);
    point_conv(dtime, &dbranch, Matrix::new(point, s.width, s.width).transposed(), s.frames);
    for (d, slope) in dtime.iter_mut().zip(&slope) {
        *d *= slope;
    }
    (row_dots(dtime, time, s.frames), dpoint)
}

/// Back through the temporal norm and convolution: replaces `dtime` by the gradient of every band's share of the pooled row,
/// leaves `[sum of dy, sum of dy * aux]` per sub-band and the temporal kernel's gradient.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma", "x86_64+avx2+fma"))]
#[allow(clippy::too_many_arguments)]
fn backward_time(
    dtime: &mut [f32],
    dout: &[f32],
    aux: &[f32],
    time: &[f32],
    pooled: &[f32],
    terms: &[[f32; 3]],
    kernel: &[f32],
    s: Sizes,
) -> (Vec<[f32; 2]>, Vec<f32>) {
    let per_band = 1.0 / s.bands_out as f32;
    let bands = s.bands_out / SUB_BANDS;
    let mut dkernel = vec![0f32; s.width * 3];
    let mut sums = Vec::with_capacity(s.width * SUB_BANDS);
    let mut dpooled = vec![0f32; s.frames];
    for (c, d) in dtime.chunks_exact_mut(s.frames).enumerate() {
        let [a, b, k] = terms[c];
        for (d, x) in d.iter_mut().zip(&time[c * s.frames..][..s.frames]) {
            *d = a.mul_add(*d, b.mul_add(*x, k));
        }
        dpooled.fill(0.0);
        let pooled = &pooled[c * s.frames..][..s.frames];
        for tap in 0..3 {
            let (to, from, count) = tap_range(tap, s.dilation, s.left, s.frames);
            dkernel[c * 3 + tap] = dot(&d[to..to + count], &pooled[from..from + count]);
            add_scaled(&mut dpooled[from..from + count], &d[to..to + count], kernel[c * 3 + tap] * per_band);
        }
        d.copy_from_slice(&dpooled);
        for sub in 0..SUB_BANDS {
            let (mut total, mut total_x) = (0f32, 0f32);
            let aux_sub = &aux[(c * s.bands_out + sub * bands) * s.frames..][..bands * s.frames];
            let dout_sub = &dout[(c * s.bands_out + sub * bands) * s.frames..][..bands * s.frames];
            for (dout, aux) in dout_sub.chunks_exact(s.frames).zip(aux_sub.chunks_exact(s.frames)) {
                total += sum(dout) + sum(d);
                total_x += dot(dout, aux) + dot(d, aux);
            }
            sums.push([total, total_x]);
        }
    }
    (sums, dkernel)
}

/// Back through the sub-band norm and the frequency convolution into `dx`: the input's gradient (with the residual), or the
/// activated entry's, masked by its ReLU. Leaves the kernel's gradient and `[sum of dy, sum of dy * entry]` per channel.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma", "x86_64+avx2+fma"))]
#[allow(clippy::too_many_arguments)]
fn backward_frequency(
    dx: &mut [f32],
    dout: &[f32],
    dpooled: &[f32],
    aux: &[f32],
    terms: &[[f32; 3]],
    x: &[f32],
    entry_norm: Option<&Norm>,
    kernel: &[f32],
    s: Sizes,
) -> (Vec<f32>, Vec<[f32; 2]>) {
    let mut daux = vec![0f32; s.channel_out()];
    let mut activated = vec![0f32; s.channel_in()];
    let mut dkernel = Vec::with_capacity(s.width * 3);
    let mut sums = Vec::new();
    for c in 0..s.width {
        let dpooled = &dpooled[c * s.frames..][..s.frames];
        for band in 0..s.bands_out {
            let [a, b, k] = terms[s.group(c, band)];
            let at = (c * s.bands_out + band) * s.frames;
            let (dout, aux) = (&dout[at..][..s.frames], &aux[at..][..s.frames]);
            let daux = &mut daux[band * s.frames..][..s.frames];
            for i in 0..s.frames {
                daux[i] = a.mul_add(dout[i] + dpooled[i], b.mul_add(aux[i], k));
            }
        }
        let (dx, x) = (&mut dx[c * s.channel_in()..][..s.channel_in()], &x[c * s.channel_in()..][..s.channel_in()]);
        let kernel = &kernel[c * 3..][..3];
        if let Some(norm) = entry_norm {
            activate(&mut activated, x, norm.factor[c], norm.offset[c]);
            dx.fill(0.0);
            dkernel.extend(frequency_conv_backward(dx, &daux, &activated, kernel, s.bands_in, s.stride, s.frames));
            for (d, active) in dx.iter_mut().zip(&activated) {
                *d = if *active > 0.0 { *d } else { 0.0 };
            }
            sums.push([sum(dx), dot(dx, x)]);
        } else {
            dx.copy_from_slice(&dout[c * s.channel_out()..][..s.channel_out()]);
            dkernel.extend(frequency_conv_backward(dx, &daux, x, kernel, s.bands_in, s.stride, s.frames));
        }
    }
    (dkernel, sums)
}

/// Back through the entry's norm and 1x1 convolution. `dentry` is used up.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma", "x86_64+avx2+fma"))]
fn backward_entry(dx: &mut [f32], dentry: &mut [f32], entry: &[f32], terms: &[[f32; 3]], x: &[f32], weight: &[f32], s: Sizes) -> Vec<f32> {
    let n = s.channel_in();
    for (c, (d, entry)) in dentry.chunks_exact_mut(n).zip(entry.chunks_exact(n)).enumerate() {
        let [a, b, k] = terms[c];
        for (d, x) in d.iter_mut().zip(entry) {
            *d = a.mul_add(*d, b.mul_add(*x, k));
        }
    }
    point_conv(dx, dentry, Matrix::new(weight, s.width, s.inputs).transposed(), n);
    let mut dweight = vec![0f32; s.width * s.inputs];
    point_conv_weight_gradient(&mut dweight, dentry, x, s.width, s.inputs, n);
    dweight
}

impl FusedBlock {
    /// `x [B, inputs, bands_in, T]` to `[B, width, bands_out, T]`.
    pub(super) fn forward(
        &self,
        x: &[f32],
        p: &[f32],
        mode: &NormMode,
        dropout: Option<Dropout>,
        batch: usize,
        frames: usize,
    ) -> (Vec<f32>, BlockSaved) {
        let (b, p) = (&self.block, self.unpack(p));
        let s = self.sizes(frames);
        let (sample_in, sample_out, sample_row) = (s.inputs * s.channel_in(), s.width * s.channel_out(), s.width * frames);

        let mut entry = vec![0f32; if b.has_entry() { batch * s.width * s.channel_in() } else { 0 }];
        let entry_norm = b.has_entry().then(|| {
            let moments: Vec<_> = entry
                .par_chunks_mut(s.width * s.channel_in())
                .zip(x.par_chunks(sample_in))
                .map(|(entry, x)| forward_entry(entry, x, p.entry, s))
                .collect();
            let name = format!("{}.entry", b.name);
            Norm::new(mode, &name, p.entry_scale, p.entry_shift, &moments, batch * s.channel_in())
        });

        let enters = if b.has_entry() { &entry } else { x };
        let mut aux = vec![0f32; batch * sample_out];
        let moments: Vec<_> = aux
            .par_chunks_mut(sample_out)
            .zip(enters.par_chunks(s.width * s.channel_in()))
            .map(|(aux, x)| forward_frequency(aux, x, entry_norm.as_ref(), p.frequency, s))
            .collect();
        let count = batch * s.channel_out() / SUB_BANDS;
        let aux_norm =
            Norm::new(mode, &format!("{}.frequency", b.name), p.frequency_scale, p.frequency_shift, &moments, count);

        let (mut pooled, mut time) = (vec![0f32; batch * sample_row], vec![0f32; batch * sample_row]);
        let moments: Vec<_> = pooled
            .par_chunks_mut(sample_row)
            .zip(time.par_chunks_mut(sample_row))
            .zip(aux.par_chunks(sample_out))
            .map(|((pooled, time), aux)| forward_time(pooled, time, aux, &aux_norm, p.time, s))
            .collect();
        let time_norm = Norm::new(mode, &format!("{}.time", b.name), p.time_scale, p.time_shift, &moments, batch * frames);

        let keep = self.keep(batch, dropout);
        let mut out = vec![0f32; batch * sample_out];
        out.par_chunks_mut(sample_out).enumerate().for_each(|(i, out)| {
            let residual = (!b.has_entry()).then(|| &x[i * sample_in..][..sample_in]);
            let (aux, time) = (&aux[i * sample_out..][..sample_out], &time[i * sample_row..][..sample_row]);
            forward_out(out, aux, &aux_norm, time, &time_norm, p.point, &keep[i * s.width..][..s.width], residual, s);
        });
        (out, BlockSaved { entry, entry_norm, aux, aux_norm, pooled, time, time_norm, keep })
    }

    /// Gradients of the input and of the packed parameters.
    pub(super) fn backward(&self, f: BlockSaved, x: &[f32], p: &[f32], out: &[f32], grad: &[f32], frames: usize) -> (Vec<f32>, Vec<f32>) {
        let (p, s, has_entry) = (self.unpack(p), self.sizes(frames), self.block.has_entry());
        let (sample_in, sample_out, sample_row) = (s.inputs * s.channel_in(), s.width * s.channel_out(), s.width * frames);

        let batch = x.len() / sample_in;
        let (mut dout, mut dtime) = (vec![0f32; batch * sample_out], vec![0f32; batch * sample_row]);
        let (sums, dpoints): (Vec<_>, Vec<_>) = dout
            .par_chunks_mut(sample_out)
            .zip(dtime.par_chunks_mut(sample_row))
            .enumerate()
            .map(|(i, (dout, dtime))| {
                let (grad, out) = (&grad[i * sample_out..][..sample_out], &out[i * sample_out..][..sample_out]);
                let (time, keep) = (&f.time[i * sample_row..][..sample_row], &f.keep[i * s.width..][..s.width]);
                backward_out(dout, dtime, grad, out, time, &f.time_norm, p.point, keep, s)
            })
            .unzip();
        let time_norm = f.time_norm.backward(p.time_scale, &sums);

        let (sums, dtimes): (Vec<_>, Vec<_>) = dtime
            .par_chunks_mut(sample_row)
            .enumerate()
            .map(|(i, dtime)| {
                let (dout, aux) = (&dout[i * sample_out..][..sample_out], &f.aux[i * sample_out..][..sample_out]);
                let (time, pooled) = (&f.time[i * sample_row..][..sample_row], &f.pooled[i * sample_row..][..sample_row]);
                backward_time(dtime, dout, aux, time, pooled, &time_norm.terms, p.time, s)
            })
            .unzip();
        let aux_norm = f.aux_norm.backward(p.frequency_scale, &sums);
        let dpooled = dtime;

        let sample_enters = s.width * s.channel_in();
        let enters = if has_entry { &f.entry } else { x };
        let mut denters = vec![0f32; batch * sample_enters];
        let (dfrequencies, sums): (Vec<_>, Vec<_>) = denters
            .par_chunks_mut(sample_enters)
            .enumerate()
            .map(|(i, dx)| {
                let (dout, aux) = (&dout[i * sample_out..][..sample_out], &f.aux[i * sample_out..][..sample_out]);
                let (dpooled, x) = (&dpooled[i * sample_row..][..sample_row], &enters[i * sample_enters..][..sample_enters]);
                backward_frequency(dx, dout, dpooled, aux, &aux_norm.terms, x, f.entry_norm.as_ref(), p.frequency, s)
            })
            .unzip();

        let mut dp = Vec::new();
        let dx = match &f.entry_norm {
            None => denters,
            Some(norm) => {
                let norm = norm.backward(p.entry_scale, &sums);
                let mut dx = vec![0f32; batch * sample_in];
                let dentries: Vec<_> = dx
                    .par_chunks_mut(sample_in)
                    .zip(denters.par_chunks_mut(sample_enters))
                    .enumerate()
                    .map(|(i, (dx, dentry))| {
                        let (entry, x) = (&f.entry[i * sample_enters..][..sample_enters], &x[i * sample_in..][..sample_in]);
                        backward_entry(dx, dentry, entry, &norm.terms, x, p.entry, s)
                    })
                    .collect();
                dp.resize(s.width * s.inputs, 0.0);
                add_up(&mut dp, dentries);
                dp.extend(norm.dscale);
                dp.extend(norm.dshift);
                dx
            }
        };
        let mut add_kernel = |samples: Vec<Vec<f32>>, length: usize, after: [Vec<f32>; 2]| {
            let mut total = vec![0f32; length];
            add_up(&mut total, samples);
            dp.extend(total);
            after.into_iter().for_each(|values| dp.extend(values));
        };
        add_kernel(dfrequencies, s.width * 3, [aux_norm.dscale, aux_norm.dshift]);
        add_kernel(dtimes, s.width * 3, [time_norm.dscale, time_norm.dshift]);
        add_kernel(dpoints, s.width * s.width, [vec![], vec![]]);
        (dx, dp)
    }
}
