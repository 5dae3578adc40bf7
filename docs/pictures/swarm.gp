# Lines, one for each node; data, nodes and once are given.
set terminal svg size 760,300 font "Helvetica,13" background rgb "white"
set datafile separator "\t"
set yrange [0:104]
set xrange [0:*]
set border 3 lc rgb "#58615c"
set tics nomirror textcolor rgb "#1a1f1c"
set grid ytics lc rgb "#dde2de"
set ylabel "% of the file" textcolor rgb "#58615c"
set xlabel "seconds" textcolor rgb "#58615c"
set title sprintf("%d nodes fetch what one has, which sends 24 MiB/s", nodes)
set key bottom right
set arrow from once, 0 to once, 104 nohead lc rgb "#a8480a" dt 2
set label "the first has sent it once" at once, 8 right offset -0.6, 0 textcolor rgb "#a8480a"
plot for [i=2:nodes+1] data using 1:i with lines lw 2 lc rgb "#0b6bcb" notitle
