ln /usr/sbin/hornetd /usr/sbin/hornetd.old          # the way back: mv, not cp, as the guard knows the file
install -m 755 hornetd /usr/sbin/hornetd.new
hornetctl guard enroll /usr/sbin/hornetd.new
mv /usr/sbin/hornetd.new /usr/sbin/hornetd
systemctl restart hornetd
hornetctl guard                                     # both are enrolled, and the new one runs
hornetctl guard retire /usr/sbin/hornetd.old        # when it has proved itself
