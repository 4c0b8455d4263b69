//! The sweeps of a residual block over one sample: forward in order, then backward. Each is compiled for several instruction
//! sets; which buffers enter and leave is told at each, what they mean in [`super::block`].

use multiversion::multiversion;

use super::kernels::*;
use super::norm::Norm;
use crate::architecture::SUB_BANDS;

/// Sizes of one sample's buffers.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) inputs: usize,
    pub(super) width: usize,
    pub(super) bands_in: usize,
    pub(super) bands_out: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
    pub(super) left: usize,
    pub(super) frames: usize,
}

impl Sizes {
    /// Values a channel on the input side.
    #[inline(always)]
    pub(super) fn channel_in(self) -> usize {
        self.bands_in * self.frames
    }

    /// Values a channel on the output side.
    #[inline(always)]
    pub(super) fn channel_out(self) -> usize {
        self.bands_out * self.frames
    }

    /// Norm group of a channel's band.
    #[inline(always)]
    fn group(self, channel: usize, band: usize) -> usize {
        channel * SUB_BANDS + band / (self.bands_out / SUB_BANDS)
    }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma"
))]
pub(super) fn forward_entry(
    entry: &mut [f32],
    x: &[f32],
    weight: &[f32],
    s: Sizes,
) -> Vec<[f32; 2]> {
    point_conv(
        entry,
        x,
        Matrix::new(weight, s.width, s.inputs),
        s.channel_in(),
    );
    row_moments(entry, s.channel_in())
}

#[inline(always)]
fn activate(out: &mut [f32], x: &[f32], factor: f32, offset: f32) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = factor.mul_add(*x, offset).max(0.0);
    }
}

/// Frequency convolution of what enters it: `x`, or the activated entry.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma"
))]
pub(super) fn forward_frequency(
    aux: &mut [f32],
    x: &[f32],
    entry_norm: Option<&Norm>,
    kernel: &[f32],
    s: Sizes,
) -> Vec<[f32; 2]> {
    let mut activated = vec![
        0f32;
        if entry_norm.is_some() {
            s.channel_in()
        } else {
            0
        }
    ];
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
        frequency_conv(
            aux,
            x,
            &kernel[c * 3..][..3],
            s.bands_in,
            s.stride,
            s.frames,
        );
        sums.extend(row_moments(aux, s.channel_out() / SUB_BANDS));
    }
    sums
}

#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma"
))]
pub(super) fn forward_time(
    pooled: &mut [f32],
    time: &mut [f32],
    aux: &[f32],
    norm: &Norm,
    kernel: &[f32],
    s: Sizes,
) -> Vec<[f32; 2]> {
    let per_band = 1.0 / s.bands_out as f32;
    for (c, (pooled, time)) in pooled
        .chunks_exact_mut(s.frames)
        .zip(time.chunks_exact_mut(s.frames))
        .enumerate()
    {
        let mut offset = 0.0;
        pooled.fill(0.0);
        for band in 0..s.bands_out {
            let group = s.group(c, band);
            offset += norm.offset[group];
            add_scaled(
                pooled,
                &aux[(c * s.bands_out + band) * s.frames..][..s.frames],
                norm.factor[group] * per_band,
            );
        }
        for p in pooled.iter_mut() {
            *p += offset * per_band;
        }
        time.fill(0.0);
        for tap in 0..3 {
            let (to, from, count) = tap_range(tap, s.dilation, s.left, s.frames);
            add_scaled(
                &mut time[to..to + count],
                &pooled[from..from + count],
                kernel[c * 3 + tap],
            );
        }
    }
    row_moments(time, s.frames)
}

/// SiLU of the normalised temporal branch and its derivative.
#[inline(always)]
fn silu(value: &mut [f32], slope: &mut [f32], time: &[f32], norm: &Norm, frames: usize) {
    for (c, row) in time.chunks_exact(frames).enumerate() {
        let (f, o) = (norm.factor[c], norm.offset[c]);
        let (value, slope) = (
            &mut value[c * frames..][..frames],
            &mut slope[c * frames..][..frames],
        );
        for t in 0..frames {
            let x = f.mul_add(row[t], o);
            let s = sigmoid(x);
            value[t] = x * s;
            slope[t] = s * x.mul_add(1.0 - s, 1.0);
        }
    }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma"
))]
#[allow(clippy::too_many_arguments)]
pub(super) fn forward_out(
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
    point_conv(
        &mut branch,
        &activated,
        Matrix::new(point, s.width, s.width),
        s.frames,
    );
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

/// Masks the gradient `dout` by the ReLU, and goes back through the temporal branch to before its norm's input.
/// Leaves `[sum of dy, sum of dy * time]` per channel and the point convolution's gradient.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma"
))]
#[allow(clippy::too_many_arguments)]
pub(super) fn backward_out(
    dout: &mut [f32],
    dtime: &mut [f32],
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
            let (dout, out) = (&mut dout[at..][..s.frames], &out[at..][..s.frames]);
            for i in 0..s.frames {
                let g = if out[i] > 0.0 { dout[i] } else { 0.0 };
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
    point_conv_weight_gradient(
        &mut dpoint,
        &dbranch,
        &activated,
        s.width,
        s.width,
        s.frames,
    );
    point_conv(
        dtime,
        &dbranch,
        Matrix::new(point, s.width, s.width).transposed(),
        s.frames,
    );
    for (d, slope) in dtime.iter_mut().zip(&slope) {
        *d *= slope;
    }
    (row_dots(dtime, time, s.frames), dpoint)
}

/// Back through the temporal norm and convolution: replaces `dtime` by the gradient of every band's share of the pooled row,
/// leaves `[sum of dy, sum of dy * aux]` per sub-band and the temporal kernel's gradient.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma"
))]
#[allow(clippy::too_many_arguments)]
pub(super) fn backward_time(
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
    back_through_norm(dtime, time, terms, s.frames);
    for (c, d) in dtime.chunks_exact_mut(s.frames).enumerate() {
        dpooled.fill(0.0);
        let pooled = &pooled[c * s.frames..][..s.frames];
        for tap in 0..3 {
            let (to, from, count) = tap_range(tap, s.dilation, s.left, s.frames);
            dkernel[c * 3 + tap] = dot(&d[to..to + count], &pooled[from..from + count]);
            add_scaled(
                &mut dpooled[from..from + count],
                &d[to..to + count],
                kernel[c * 3 + tap] * per_band,
            );
        }
        d.copy_from_slice(&dpooled);
        for sub in 0..SUB_BANDS {
            let (mut total, mut total_x) = (0f32, 0f32);
            let aux_sub = &aux[(c * s.bands_out + sub * bands) * s.frames..][..bands * s.frames];
            let dout_sub = &dout[(c * s.bands_out + sub * bands) * s.frames..][..bands * s.frames];
            for (dout, aux) in dout_sub
                .chunks_exact(s.frames)
                .zip(aux_sub.chunks_exact(s.frames))
            {
                let [sum, product] = sum_and_dot(dout, d, aux);
                total += sum;
                total_x += product;
            }
            sums.push([total, total_x]);
        }
    }
    (sums, dkernel)
}

/// Back through the sub-band norm and the frequency convolution: into `dx`, the activated entry's gradient, masked by its ReLU; or,
/// without an entry, added to `dout`, which the residual connection makes the input's gradient, and `dx` is empty. Leaves the kernel's gradient and `[sum of dy, sum of dy * entry]` per channel.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma"
))]
#[allow(clippy::too_many_arguments)]
pub(super) fn backward_frequency(
    dx: &mut [f32],
    dout: &mut [f32],
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
        let x = &x[c * s.channel_in()..][..s.channel_in()];
        let kernel = &kernel[c * 3..][..3];
        if let Some(norm) = entry_norm {
            let dx = &mut dx[c * s.channel_in()..][..s.channel_in()];
            activate(&mut activated, x, norm.factor[c], norm.offset[c]);
            dx.fill(0.0);
            dkernel.extend(frequency_conv_backward(
                dx, &daux, &activated, kernel, s.bands_in, s.stride, s.frames,
            ));
            for (d, active) in dx.iter_mut().zip(&activated) {
                *d = if *active > 0.0 { *d } else { 0.0 };
            }
            sums.push([sum(dx), dot(dx, x)]);
        } else {
            let dx = &mut dout[c * s.channel_out()..][..s.channel_out()];
            dkernel.extend(frequency_conv_backward(
                dx, &daux, x, kernel, s.bands_in, s.stride, s.frames,
            ));
        }
    }
    (dkernel, sums)
}

/// Back through the entry's norm and 1x1 convolution. `dentry` is used up.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma"
))]
pub(super) fn backward_entry(
    dx: &mut [f32],
    dentry: &mut [f32],
    entry: &[f32],
    terms: &[[f32; 3]],
    x: &[f32],
    weight: &[f32],
    s: Sizes,
) -> Vec<f32> {
    let n = s.channel_in();
    back_through_norm(dentry, entry, terms, n);
    point_conv(
        dx,
        dentry,
        Matrix::new(weight, s.width, s.inputs).transposed(),
        n,
    );
    let mut dweight = vec![0f32; s.width * s.inputs];
    point_conv_weight_gradient(&mut dweight, dentry, x, s.width, s.inputs, n);
    dweight
}
