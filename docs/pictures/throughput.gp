# Bars, one for each way; data and mib are given.
set terminal svg size 760,230 font "Helvetica,13" background rgb "white"
set datafile separator "\t"
set style fill solid noborder
set xrange [0:*]
set offsets 0, graph 0.12, 0, 0
set yrange [-0.6:*]
unset key
set border 0
set tics scale 0
set xlabel "MiB/s until it is on the disk" textcolor rgb "#58615c"
set grid xtics lc rgb "#dde2de"
set title sprintf("%d MiB from one process to another on one machine", mib) offset 0,-0.5
h = 0.32
color(name) = name eq "barrow pin" ? 0x1f5f4a : 0x9aa59f
plot data using (0):0:(0):2:($0-h):($0+h):(color(stringcolumn(1))):ytic(1) with boxxyerror lc rgb variable, \
     data using 2:0:(sprintf("%d", column(2))) with labels left offset 0.7,0
